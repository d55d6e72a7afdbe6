"""Stable Diffusion behind the interface: against the pipeline's own calls, and the definition of its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_stable_diffusion import IMAGE_SIZE, LATENT_SHAPE, WIDTH
from tests.train.generators.diffusion.pipelines import NAMES, PROMPT, generator, made, overwritten, with_config
from train.generators.diffusion import Diffusion
from train.generators.diffusion.stable_diffusion import StableDiffusion, luminance

# ------------------------------------------------------------------------------------------------------ the interface


def test_it_is_a_diffusion_of_the_pipelines_sizes(model: StableDiffusion) -> None:
    assert isinstance(model, Diffusion)
    assert (model.width, model.latent_shape, model.times) == (WIDTH, LATENT_SHAPE, 1000)
    assert model.own_size == (IMAGE_SIZE, IMAGE_SIZE)
    assert (model.steps, model.guidance) == (4, 7.5)


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
        [PROMPT.format(NAMES[c]) for c in classes], latents=noise, num_inference_steps=4, output_type="latent"
    ).images
    found = model.latents(model.condition(classes), classes, generator(3))
    assert found.equal(expected)
    assert not found[0].equal(found[3])  # other noise


def test_images_are_the_pipelines_own(model: StableDiffusion, reference: Any) -> None:
    noise = torch.randn(2, *LATENT_SHAPE, generator=generator(3))
    expected = reference(
        [PROMPT.format(n) for n in NAMES[:2]], latents=noise, num_inference_steps=4, output_type="pil"
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


@pytest.mark.parametrize("sampler", ["ddpm", "plms", "dpm-solver++"])
def test_other_samplers_draw_each_image_by_itself(tiny_pipeline: Path, tmp_path: Path, sampler: str) -> None:
    """How many are sampled at once changes no image, also where noise is drawn in every step."""
    apart, together = (
        made(tiny_pipeline, tmp_path / str(size), sampler=sampler, sampling_batch=size, sampling_steps=5)
        for size in (1, 3)
    )
    classes = torch.tensor([0, 1, 2])
    found = apart.latents(apart.condition(classes), classes, generator())
    expected = together.latents(together.condition(classes), classes, generator())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert type(apart.pipeline.scheduler).__name__ == "DDIMScheduler"  # what was put in its place is taken out again
