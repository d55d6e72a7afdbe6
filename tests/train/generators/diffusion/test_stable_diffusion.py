"""Stable Diffusion behind the interface: against the pipeline's own calls, and the published way to substitute."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guard
from guard.data import load
from guard.errors import ConfigError
from tests.conftest import Arrays
from tests.tiny_stable_diffusion import IMAGE_SIZE, LATENT_SHAPE, WIDTH
from train.engine.adaptive_batches import Batches
from train.generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from train.generators.diffusion.stable_diffusion import StableDiffusion, luminance
from train.outliers.base import PrepareContext
from train.runs.synth import untrained

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "frog")
PROMPT = "A high-quality image of the {}"


def context(folder: Path, names: tuple[str, ...] = NAMES, channels: int = 3) -> PrepareContext:
    """Twelve random images in folders of these names."""
    draw = np.random.default_rng(0)
    for name in names:
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    data = load(str(folder / "images"), channels=channels)
    return PrepareContext(untrained(data, CPU), data, folder / "kept", 0, CPU)


def made(
    pipeline: Path, folder: Path, names: tuple[str, ...] = NAMES, channels: int = 3, **options: Any
) -> StableDiffusion:
    asked = DiffusionOptions(**{"model": "stable-diffusion", "pipeline": str(pipeline), "sampling_steps": 3, **options})
    model = make_diffusion(context(folder, names, channels), asked)
    assert isinstance(model, StableDiffusion)
    return model


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return made(tiny_pipeline, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(tiny_pipeline: Path) -> Any:
    """The pipeline as diffusers opens it, with nothing of ours."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def overwritten(pipeline: Any, name: str, e: torch.Tensor) -> torch.Tensor:
    """The published procedure: overwrite the row of the name's first token, encode the prompt, put the row back."""
    table = pipeline.text_encoder.get_input_embeddings().weight
    token = pipeline.tokenizer(name).input_ids[1]
    kept = table[token].detach().clone()
    with torch.no_grad():
        table[token] = e
        ids = pipeline.tokenizer(PROMPT.format(name), padding="max_length", return_tensors="pt").input_ids
        hidden = pipeline.text_encoder(ids)[0]
        table[token] = kept
    return hidden


# ------------------------------------------------------------------------------------------------------ the interface


def test_it_is_a_diffusion_of_the_pipelines_sizes(model: StableDiffusion) -> None:
    assert isinstance(model, Diffusion)
    assert (model.width, model.latent_shape, model.times) == (WIDTH, LATENT_SHAPE, 1000)
    assert model.own_size == (IMAGE_SIZE, IMAGE_SIZE)
    assert (model.steps, model.guidance) == (3, 7.5)


def test_a_class_is_the_row_of_its_names_token(model: StableDiffusion, reference: Any) -> None:
    table = reference.text_encoder.get_input_embeddings().weight
    rows = [table[reference.tokenizer.convert_tokens_to_ids(f"{name}</w>")] for name in NAMES]
    e = model.condition(torch.tensor([2, 0, 1]))
    assert e.dtype == torch.float32
    assert e.equal(torch.stack([rows[2], rows[0], rows[1]]))
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.25, 0.75]])
    expected = torch.stack([rows[0] + rows[1], 0.25 * rows[1] + 0.75 * rows[2]])
    torch.testing.assert_close(model.condition(weights), expected)


def test_latents_of_the_classes_own_e_are_the_pipelines_own(model: StableDiffusion, reference: Any) -> None:
    classes = torch.tensor([0, 1, 2, 0])
    noise = torch.randn(4, *LATENT_SHAPE, generator=generator(3))
    expected = reference(
        [PROMPT.format(NAMES[c]) for c in classes], latents=noise, num_inference_steps=3, output_type="latent"
    ).images
    found = model.latents(model.condition(classes), classes, generator(3))
    assert found.equal(expected)
    assert not found[0].equal(found[3])  # other noise


def test_images_are_the_pipelines_own(model: StableDiffusion, reference: Any) -> None:
    noise = torch.randn(2, *LATENT_SHAPE, generator=generator(3))
    expected = reference(
        [PROMPT.format(n) for n in NAMES[:2]], latents=noise, num_inference_steps=3, output_type="pil"
    ).images
    images = model.sample(model.condition(torch.arange(2)), torch.arange(2), generator(3))
    assert images.dtype == torch.uint8
    assert images.numpy().tolist() == np.stack([np.asarray(image) for image in expected]).tolist()


def test_without_guidance_the_empty_prompt_is_left_out(tiny_pipeline: Path, tmp_path: Path, reference: Any) -> None:
    plain = made(tiny_pipeline, tmp_path, guidance=1.0, sampling_steps=2)
    noise = torch.randn(1, *LATENT_SHAPE, generator=generator())
    expected = reference(
        PROMPT.format("cat"), latents=noise, num_inference_steps=2, guidance_scale=1.0, output_type="latent"
    ).images
    one = torch.zeros(1, dtype=torch.int64)
    assert plain.latents(plain.condition(one), one, generator()).equal(expected)


def test_latents_do_not_depend_on_how_many_are_made_at_once(
    tiny_pipeline: Path, tmp_path: Path, model: StableDiffusion
) -> None:
    few = made(tiny_pipeline, tmp_path, sampling_batch=2)
    classes = torch.tensor([0, 1, 2, 1, 0])
    e = model.condition(classes) + 0.1
    expected = model.latents(e, classes, generator())
    torch.testing.assert_close(few.latents(e, classes, generator()), expected, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- substitution


def test_each_image_has_its_own_e_as_if_the_row_had_been_overwritten(model: StableDiffusion, reference: Any) -> None:
    classes = torch.tensor([0, 1, 0, 2])
    e = torch.randn(4, WIDTH, generator=generator())
    found = model.prompts.hidden(e, classes)
    expected = torch.cat([overwritten(reference, NAMES[c], e[i]) for i, c in enumerate(classes)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found[0] - found[2]).abs().max() > 0.1


def test_every_place_of_the_token_is_replaced(tiny_pipeline: Path, tmp_path: Path, reference: Any) -> None:
    twice = made(tiny_pipeline, tmp_path, names=("cat", "image"))  # "image" is in the prompt as well
    e = torch.randn(1, WIDTH, generator=generator())
    found = twice.prompts.hidden(e, torch.tensor([1]))
    torch.testing.assert_close(found, overwritten(reference, "image", e[0]), rtol=1e-5, atol=1e-6)


def test_the_empty_prompt_and_the_table_stay_as_they_are_even_after_a_failure(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(tiny_pipeline, tmp_path)
    table = model.pipeline.text_encoder.get_input_embeddings()
    before, empty = table.weight.clone(), model.prompts.unconditional(2).clone()
    classes = torch.tensor([0, 1])
    plain = model.latents(model.condition(classes), classes, generator())

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.text_encoder.encoder, "forward", fail)
        with pytest.raises(RuntimeError, match="no luck"):
            model.latents(torch.randn(2, WIDTH), classes, generator())
    assert not table._forward_hooks
    assert table.weight.equal(before)
    assert model.prompts.unconditional(2).equal(empty)
    assert model.prompts.unconditional(1)[0].equal(model.pipeline.encode_prompt("", CPU, 1, False)[0][0])
    assert model.latents(model.condition(classes), classes, generator()).equal(plain)


def test_names_of_several_tokens_are_told_once_with_the_piece_that_stands_for_them(
    tiny_pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ood_guard"):
        model = made(tiny_pipeline, tmp_path, names=("cat", "dog_house", "dog_photo"))
        model.sample(model.condition(torch.arange(3)), torch.arange(3), generator())
    several, alike = [r.getMessage() for r in caplog.records]
    assert "2 class names are several tokens" in several
    assert "dog_house -> dog</w>, dog_photo -> dog</w>" in several
    assert "dog_house = dog_photo" in alike
    assert model.condition(torch.tensor([1])).equal(model.condition(torch.tensor([2])))


@pytest.mark.parametrize(
    ("names", "prompt", "message"),
    [
        (
            ("cat", "dog"),
            "the {}s",
            "class 'cat' begins with the token 'cat</w>', which is not in its prompt 'the cats'",
        ),
        (("cat", "dog"), "a " * 40 + "{}", "which is not in its prompt .*at most 24 tokens"),
        (("cat", "日本"), PROMPT, "the tokenizer has no token for class '日本'"),
    ],
)
def test_prompts_without_the_class_in_them_are_refused(
    tiny_pipeline: Path, tmp_path: Path, names: tuple[str, ...], prompt: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tiny_pipeline, tmp_path, names=names, prompt=prompt)


# -------------------------------------------------------------------------------------------------------- noise loss


@pytest.fixture
def asked() -> dict[str, torch.Tensor]:
    draw = generator(5)
    return {
        "latents": torch.randn(3, *LATENT_SHAPE, generator=draw),
        "e": 0.5 * torch.randn(3, WIDTH, generator=draw),
        "classes": torch.tensor([0, 2, 1]),
        "times": torch.tensor([10, 500, 990]),
        "noise": torch.randn(3, *LATENT_SHAPE, generator=draw),
    }


def by_hand(pipeline: Any, asked: dict[str, torch.Tensor], velocity: bool) -> torch.Tensor:
    """One image after the other, from the definition, with the row overwritten."""
    losses = []
    for i, t in enumerate(asked["times"].tolist()):
        kept = float(pipeline.scheduler.alphas_cumprod[t])
        z, eps = asked["latents"][i : i + 1], asked["noise"][i : i + 1]
        z_t = kept**0.5 * z + (1 - kept) ** 0.5 * eps
        hidden = overwritten(pipeline, NAMES[int(asked["classes"][i])], asked["e"][i])
        with torch.no_grad():
            said = pipeline.unet(z_t, t, encoder_hidden_states=hidden).sample
        if velocity:
            said = kept**0.5 * said + (1 - kept) ** 0.5 * z_t
        losses.append(float(((said - eps) ** 2).mean()))
    return torch.tensor(losses)


def loss_of(model: StableDiffusion, asked: dict[str, torch.Tensor], e: torch.Tensor) -> torch.Tensor:
    return model.noise_loss(asked["latents"], e, asked["classes"], times=asked["times"], noise=asked["noise"])


def test_noise_loss_is_the_definition(model: StableDiffusion, reference: Any, asked: dict[str, torch.Tensor]) -> None:
    found = loss_of(model, asked, asked["e"])
    torch.testing.assert_close(found, by_hand(reference, asked, velocity=False), rtol=1e-4, atol=1e-5)


def test_a_network_that_predicts_velocity(
    tiny_pipeline: Path, tmp_path: Path, reference: Any, asked: dict[str, torch.Tensor]
) -> None:
    folder = with_config(
        tiny_pipeline, tmp_path / "v", "scheduler/scheduler_config.json", prediction_type="v_prediction"
    )
    model = made(folder, tmp_path)
    expected = by_hand(reference, asked, velocity=True)
    torch.testing.assert_close(loss_of(model, asked, asked["e"]), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, by_hand(reference, asked, velocity=False), rtol=1e-2)


def test_its_gradient_in_e_agrees_with_finite_differences(
    model: StableDiffusion, asked: dict[str, torch.Tensor]
) -> None:
    e = asked["e"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(model, asked, e).sum(), e)
    direction, step = gradient / gradient.norm(), 0.05  # where it rises most: float32 sees little else
    with torch.no_grad():
        ahead, behind = (loss_of(model, asked, e + s * step * direction).sum().double() for s in (1, -1))
    assert float(gradient.norm()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=0.02)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None for p in model.pipeline.text_encoder.parameters())


def test_half_precision_keeps_the_gradient(
    tiny_pipeline: Path, tmp_path: Path, model: StableDiffusion, asked: dict[str, torch.Tensor]
) -> None:
    half = made(tiny_pipeline, tmp_path)
    for part in (half.pipeline.unet, half.pipeline.text_encoder):
        part.half()
    gradients, losses = [], []
    for each in (model, half):
        e = asked["e"].clone().requires_grad_()
        loss = loss_of(each, asked, e)
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss.sum(), e)
        gradients.append(gradient)
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=1e-3)
    assert torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.99
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.03)


# ------------------------------------------------------------------------------------------------------ encode, decode


def test_encoding_is_the_scaled_mode_of_the_resized_image(model: StableDiffusion, reference: Any) -> None:
    images = torch.randint(0, 256, (3, 20, 24, 3), dtype=torch.uint8, generator=generator())
    found = model.encode(images)
    assert found.shape == (3, *LATENT_SHAPE)
    for image, latent in zip(images.numpy(), found, strict=True):
        pixels = Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        x = reference.image_processor.preprocess(pixels)
        expected = reference.vae.encode(x).latent_dist.mode()[0] * reference.vae.config.scaling_factor
        torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-5)


def test_grey_images_stay_grey(tiny_pipeline: Path, tmp_path: Path, model: StableDiffusion) -> None:
    grey = made(tiny_pipeline, tmp_path, channels=1)
    images = torch.randint(0, 256, (2, 16, 16, 1), dtype=torch.uint8, generator=generator())
    latents = grey.encode(images)
    torch.testing.assert_close(latents, model.encode(images.expand(-1, -1, -1, 3)))
    decoded = grey.decode(latents)
    rgb = model.decode(latents).numpy()
    assert decoded.shape == (2, IMAGE_SIZE, IMAGE_SIZE, 1)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in rgb])
    assert decoded[..., 0].numpy().tolist() == expected.tolist()


def test_luminance_is_pillows_for_all_kinds_of_colours() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colours[0]).convert("L"))
    assert luminance(torch.from_numpy(colours))[0, ..., 0].numpy().tolist() == expected.tolist()


# ---------------------------------------------------------------------------------------------------------- memory


def test_batches_are_halved_until_they_fit_and_lose_nothing() -> None:
    sizes = []

    def limited(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("too much")
        return x + y

    batches = Batches(16)
    x = torch.arange(10.0)
    assert batches(limited, x, x).equal(2 * x)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    assert batches.size == 2


def test_one_image_that_does_not_fit_is_said() -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Batches(4)(never, torch.zeros(4))


# --------------------------------------------------------------------------------------------------------- opening


def with_config(pipeline: Path, folder: Path, file: str, **values: Any) -> Path:
    """A copy of the pipeline with other values in one of its configs."""
    shutil.copytree(pipeline, folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_a_pipeline_of_another_scheduler_samples_by_ddim(tiny_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    folder = with_config(tiny_pipeline, tmp_path / "p", "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    path = folder / "scheduler/scheduler_config.json"
    config = {**json.loads(path.read_text()), "_class_name": "PNDMScheduler", "skip_prk_steps": True}
    del config["clip_sample"]  # PNDM knows no such thing, and DDIM's default would clip latents
    path.write_text(json.dumps(config))
    model = made(folder, tmp_path)
    assert type(model.pipeline.scheduler) is DDIMScheduler
    assert model.pipeline.scheduler.config.beta_start == 0.00085
    assert not model.pipeline.scheduler.config.clip_sample


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"option diffusion: model='stable-diffusion' needs the folder .*, or a hub id .*: diffusion={'pip",
        ),
        (
            {"pipeline": "/no/such/folder"},
            r"diffusion\.pipeline='/no/such/folder' does not exist; give the folder of a Stable",
        ),
        ({"pipeline": "nowhere"}, r"diffusion\.pipeline='nowhere' does not exist"),
        ({"pipeline": "./some/model"}, r"diffusion\.pipeline='./some/model' does not exist"),
        ({"pipeline": "a/b", "prompt": "A photo"}, "prompt='A photo' has no place for the class's name"),
        ({"model": "built-in", "pipeline": "a/b"}, "pipeline='a/b' is not read with model='built-in'; drop it, or"),
        ({"model": "built-in", "prompt": "a {}"}, "prompt='a {}' is not read with model='built-in'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    four: Arrays, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        guard.train(four, method="oal", out=tmp_path / "run", diffusion={"model": "stable-diffusion", **options})
    assert not (tmp_path / "run").exists()


def test_a_hub_id_without_network_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"'some/model' \(not a folder here, so .* hub id\).*without one, give"):
        make_diffusion(context(tmp_path), DiffusionOptions(model="stable-diffusion", pipeline="some/model"))


def test_other_pipelines_and_pickled_weights_are_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no diffusion pipeline can be opened from the folder .*save_pretrained"):
        made(tmp_path / "empty", tmp_path)
    other = with_config(tiny_pipeline, tmp_path / "xl", "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(ConfigError, match="is a StableDiffusionXLPipeline; Stable Diffusion takes a"):
        made(other, tmp_path)
    sample = with_config(tiny_pipeline, tmp_path / "x0", "scheduler/scheduler_config.json", prediction_type="sample")
    with pytest.raises(ConfigError, match="predicts 'sample'; accepted: epsilon, v_prediction"):
        made(sample, tmp_path)
    pickled = Path(shutil.copytree(tiny_pipeline, tmp_path / "pickled"))
    weights = pickled / "unet/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"no StableDiffusionPipeline can be loaded .*must be safetensors"):
        made(pickled, tmp_path)


def test_the_safety_checker_stays_off(model: StableDiffusion) -> None:
    assert model.pipeline.safety_checker is None
    assert model.pipeline.vae.use_slicing
