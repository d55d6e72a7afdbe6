"""FodFoM's decoded outliers: from image features or from captions, on a toy or Stable Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from guard.data import load
from guard.errors import ConfigError
from guard.record import parse_options
from tests import toy_diffusion
from tests.conftest import Arrays
from tests.tiny_transformers import save_tiny_captioner
from train.generators.diffusion import DiffusionOptions
from train.methods.fodfom import FodFoMImageOptions, FodFoMImages
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.conditioning.captions import PROMPT, Captioner, caption_features
from train.outliers.conditioning.encoder import trained_encoder, training_features
from train.runs.synth import untrained

CPU = torch.device("cpu")
TOY: dict[str, Any] = {"diffusion": "toy", "encoder": {"backbone": "wrn10_2", "epochs": 3, "batch_size": 20}}


@pytest.fixture(scope="module")
def context(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> PrepareContext:
    """80 digits of 4 classes, and a folder in which what is trained is kept from test to test."""
    data = load((four[0][:80], four[1][:80]))
    return PrepareContext(untrained(data, CPU), data, tmp_path_factory.mktemp("fodfom") / "kept", 0, CPU)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("captioner") / "blip")


def sampled(synthesiser: FodFoMImages, context: PrepareContext, seed: int = 1) -> Outliers:
    synthesiser.prepare(context)
    images = torch.from_numpy(context.data.take(np.arange(8)).copy())
    return synthesiser.sample(IDBatch(images, torch.arange(8) % 2), torch.Generator().manual_seed(seed))


def test_embeddings_lead_from_the_class_through_its_edge_and_beyond(context: PrepareContext) -> None:
    synthesiser = FodFoMImages(12, 4, **TOY)
    made = sampled(synthesiser, context)
    anchors = toy_diffusion.ToyDiffusion(context, DiffusionOptions()).condition(torch.arange(4))
    e, classes, parents = synthesiser.table.embeddings
    assert torch.bincount(classes).tolist() == [4 * 5] * 4  # a fifth of 20, five of each
    assert parents.equal(classes[:, None])
    torch.testing.assert_close(e.norm(dim=1), anchors[classes].norm(dim=1))
    options = FodFoMImageOptions(**TOY).encoder
    features = training_features(context, trained_encoder(context, anchors, options), options)
    z = F.normalize(features.data, dim=-1)
    for c in range(4):
        own, mean = z[features.labels == c], z[features.labels == c].mean(0)
        inside = F.cosine_similarity(own, mean[None], dim=-1)
        beyond = F.cosine_similarity(e[classes == c], mean[None], dim=-1).unflatten(0, (4, 5))
        assert (beyond.diff(dim=1) < 0).all()
        assert beyond[:, 0].max() < inside.sort().values[4]  # farther than all that is no edge
    assert made.data.shape == (12, 16, 16, 3)
    assert made.origin == "decoded from beyond the edge of a class"


def test_the_published_step_leaves_features_where_they_are(context: PrepareContext) -> None:
    far, published = (FodFoMImages(4, 4, **TOY, edge=edge) for edge in ({}, {"step": 3e-5}))
    for synthesiser in (far, published):
        sampled(synthesiser, context)
    spread = [s.table.embeddings.data.unflatten(0, (-1, 5)) for s in (far, published)]
    moved = [(x[:, 4] - x[:, 0]).norm(dim=-1).mean().item() for x in spread]
    assert moved[1] < 0.01 * moved[0]


def test_other_edges_and_steps_are_other_embeddings(context: PrepareContext) -> None:
    tables = []
    for options in ({}, {"by": "mahalanobis"}, {"share": 0.5}, {"outward": 2}, {"step": 0.5}):
        synthesiser = FodFoMImages(4, 4, **TOY, edge=options)
        sampled(synthesiser, context)
        tables.append(synthesiser.table.embeddings.data)
    assert [len(t) for t in tables] == [80, 80, 200, 32, 80]
    assert len({t[:32].numpy().tobytes() for t in tables}) == 5


# --------------------------------------------------------------------------------------------------------- captions


@pytest.fixture
def named(tmp_path: Path) -> PrepareContext:
    """Eight images each of cats and dogs."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8) // (1 + i)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    data = load(str(tmp_path / "images"))
    return PrepareContext(untrained(data, CPU), data, tmp_path / "kept", 0, CPU)


def with_captions(pipeline: Path, captioner: Path, **options: Any) -> dict[str, Any]:
    model = {"model": "stable-diffusion", "pipeline": str(pipeline), "sampling_steps": 2}
    return {"diffusion": model, "captioner": str(captioner), **options}


def test_features_are_the_text_encoders_of_the_captions(
    named: PrepareContext, tiny_pipeline: Path, captioner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    options = FodFoMImageOptions(**with_captions(tiny_pipeline, captioner))
    synthesiser = FodFoMImages(4, 2, **options.model_dump())
    sampled(synthesiser, named)
    found = caption_features(named, synthesiser._model.get(), options.diffusion, str(captioner))
    images = torch.from_numpy(named.data.take(np.arange(16)).copy())
    said = Captioner(str(captioner), CPU).captions(images)
    assert len(set(said)) > 8
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    for i, caption in enumerate(said):
        text = f"This is a photo of {('cat', 'dog')[i // 8]} and {caption}"
        ids = pipeline.tokenizer(text, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = pipeline.text_encoder(ids).last_hidden_state
        end = ids[0].tolist().index(pipeline.tokenizer.eos_token_id)
        torch.testing.assert_close(found.data[i], hidden[0, end], rtol=1e-4, atol=1e-4)
    assert found.labels.tolist() == [0] * 8 + [1] * 8

    def never(*_: Any) -> None:
        raise AssertionError("captions are kept")

    monkeypatch.setattr(Captioner, "__init__", never)
    again = caption_features(named, synthesiser._model.get(), options.diffusion, str(captioner))
    assert again.data.equal(found.data)


def test_images_are_of_the_published_prompt_that_ends_in_the_feature(
    named: PrepareContext, tiny_pipeline: Path, captioner: Path
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    options = with_captions(tiny_pipeline, captioner)
    synthesiser = FodFoMImages(3, 2, **options, resize_kernel="nearest")
    made = sampled(synthesiser, named)
    generator = torch.Generator().manual_seed(1)
    features, _, parents = synthesiser.table.draw(3, generator)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    hidden = pipeline.encode_prompt([PROMPT] * 3, CPU, 1, False)[0]
    end = pipeline.tokenizer(PROMPT).input_ids.index(pipeline.tokenizer.eos_token_id)
    hidden[:, end] = features
    noise = torch.randn(3, 4, 8, 8, generator=generator)
    expected = pipeline(
        prompt_embeds=hidden,
        negative_prompt_embeds=pipeline.encode_prompt([""] * 3, CPU, 1, False)[0],
        latents=noise,
        num_inference_steps=2,
    ).images
    found = [Image.fromarray(image) for image in made.data.numpy()]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs.resize((16, 16), 0)), atol=1)
    assert made.parents is not None
    assert made.parents.equal(parents)


def test_captions_need_a_text_encoder_and_a_captioner(
    named: PrepareContext, context: PrepareContext, tiny_pipeline: Path, captioner: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"needs a text encoder, and diffusion\.model='built-in' has none"):
        parse_options(FodFoMImageOptions, {"captioner": str(captioner)}, "method 'fodfom'")
    with pytest.raises(ConfigError, match=r"captioner= needs a diffusion model with a text encoder, .*'toy'"):
        FodFoMImages(4, 4, diffusion="toy", captioner=str(captioner)).prepare(context)
    unread = {"diffusion": "toy", "captioner": str(captioner), "encoder": {"epochs": 2}}
    with pytest.raises(ConfigError, match=r"encoder={'epochs': 2} is not read with captioner='.*'; drop it"):
        parse_options(FodFoMImageOptions, unread, "method 'fodfom'")
    with pytest.raises(ConfigError, match=r"no captioning model can be loaded from captioner='.*none'"):
        FodFoMImages(4, 2, **with_captions(tiny_pipeline, tmp_path / "none")).prepare(named)
