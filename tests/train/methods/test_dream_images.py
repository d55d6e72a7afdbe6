"""Dream-OOD, Dream-ID and BOOD as makers of images: which embeddings are decoded, how they are resized, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from guard.data import load
from guard.errors import ConfigError
from guard.record import parse_options
from tests.conftest import Arrays
from train.generators.diffusion import DiffusionOptions, register_diffusion
from train.methods.bood import BOODImages
from train.methods.dream import DreamIDImages, DreamOODImages, DreamOODOptions
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.conditioning import encoder
from train.outliers.decoded import DecodedEmbeddings
from train.outliers.store.fill import fill
from train.outliers.store.shards import read_made
from train.runs.synth import untrained


class Recorded:
    """A diffusion model that costs nothing: latents are images in [-1, 1], M e and some noise. It remembers what it was
    last asked to decode, and what came out."""

    width, times = 48, 10

    def __init__(self, classes: int, size: tuple[int, int], channels: int) -> None:
        g = torch.Generator().manual_seed(3)
        self.own_size, self.latent_shape = size, (channels, *size)
        self.matrix = torch.randn(channels * size[0] * size[1], self.width, generator=g)
        self.table = 0.1 * torch.randn(classes, self.width, generator=g) * torch.arange(1, classes + 1)[:, None]

    def encode(self, images: Tensor) -> Tensor:
        raise AssertionError("images are not encoded")

    def decode(self, latents: Tensor) -> Tensor:
        return ((latents.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def condition(self, classes: Tensor) -> Tensor:
        return self.table[classes]

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        raise AssertionError("nothing is fitted to images")

    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(e), *self.latent_shape, generator=generator)
        return 0.3 * (e @ self.matrix.T).view(-1, *self.latent_shape) + 0.05 * noise

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        self.asked, self.made = (e, classes), self.decode(self.latents(e, classes, generator))
        return self.made


def same_size(context: PrepareContext, options: DiffusionOptions) -> Recorded:
    p = context.data.preprocess
    return Recorded(len(context.data.class_names), (p.height, p.width), p.channels)


def larger(context: PrepareContext, options: DiffusionOptions) -> Recorded:
    p = context.data.preprocess
    return Recorded(len(context.data.class_names), (2 * p.height, p.width + 5), p.channels)


register_diffusion("dream-toy", same_size)
register_diffusion("dream-toy-larger", larger)

ENCODER: dict[str, Any] = {"backbone": "wrn10_2", "epochs": 4, "batch_size": 20, "augment": "none"}
QUICK: dict[str, Any] = {"diffusion": "dream-toy", "encoder": ENCODER}
KINDS: dict[str, tuple[type[DecodedEmbeddings], dict[str, Any]]] = {
    "dream_ood": (DreamOODImages, {}),
    "interpolation": (DreamOODImages, {"sampler": "interpolation", "encoder": {}}),
    "gaussian": (DreamOODImages, {"sampler": "gaussian", "encoder": {}}),
    "learnable": (DreamOODImages, {"sampler": "learnable"}),
    "dream_id": (DreamIDImages, {}),
    "bood": (BOODImages, {}),
}


@pytest.fixture(scope="module")
def context(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> PrepareContext:
    """200 digits of 4 classes at 8 pixels; in the folder what is trained is kept from test to test."""
    data = load((np.ascontiguousarray(four[0][:200, ::2, ::2]), four[1][:200]))
    folder = tmp_path_factory.mktemp("dream") / "kept"
    return PrepareContext(untrained(data, torch.device("cpu")), data, folder, 0, torch.device("cpu"))


def made_by(context: PrepareContext, name: str, count: int = 24, **options: Any) -> tuple[DecodedEmbeddings, Outliers]:
    kind, own = KINDS[name]
    synthesiser = kind(count, len(context.data.class_names), **{**QUICK, **own, **options})
    synthesiser.prepare(context)
    return synthesiser, sampled(synthesiser, context)


def sampled(synthesiser: DecodedEmbeddings, context: PrepareContext) -> Outliers:
    images = torch.from_numpy(context.data.take(np.arange(8)).copy())
    return synthesiser.sample(IDBatch(images, torch.arange(8) % 2), torch.Generator().manual_seed(1))


def model(synthesiser: DecodedEmbeddings) -> Recorded:
    found = synthesiser._model.get()
    assert isinstance(found, Recorded)
    return found


def cosines(synthesiser: DecodedEmbeddings) -> Tensor:
    """Of all embeddings with all anchors."""
    return F.normalize(synthesiser.table.embeddings.data) @ F.normalize(model(synthesiser).table).T


def pairs(classes: Tensor, e: Tensor) -> set[tuple[float, ...]]:
    return {(c, *row) for c, row in zip(classes.tolist(), e.tolist(), strict=True)}


@pytest.mark.parametrize("name", KINDS)
def test_images_are_decoded_from_embeddings_with_their_classes(name: str, context: PrepareContext) -> None:
    synthesiser, made = made_by(context, name)
    e, classes = model(synthesiser).asked
    known = {
        (c, *row) for c, row in zip(*(t.tolist() for t in reversed(synthesiser.table.embeddings[:2])), strict=True)
    }
    assert {(c, *row) for c, row in zip(classes.tolist(), e.tolist(), strict=True)} <= known
    assert made.data.equal(model(synthesiser).made)
    assert made.data.shape == (24, 8, 8, 3)
    assert made.parents is not None
    assert made.parents[:, 0].equal(classes)
    assert made.origin.startswith("decoded from")
    assert made.labels is None  # in a store all are kept


@pytest.mark.parametrize("name", ["dream_ood", "dream_id", "bood"])
def test_embeddings_found_around_features_are_as_long_as_the_anchor(name: str, context: PrepareContext) -> None:
    synthesiser, _ = made_by(context, name)
    e, classes, _ = synthesiser.table.embeddings
    torch.testing.assert_close(e.norm(dim=1), model(synthesiser).table.norm(dim=1)[classes])


def test_what_each_kind_of_embedding_is(context: PrepareContext) -> None:
    """Inliers point to their class, outliers less so, what has crossed to another one; mixtures in between two."""
    made = {name: made_by(context, name)[0] for name in KINDS}
    own = {name: cosines(s).gather(1, s.table.embeddings.classes[:, None]).mean() for name, s in made.items()}
    assert own["dream_id"] > 0.6
    assert own["dream_id"] > own["dream_ood"] + 0.1
    bood = cosines(made["bood"])
    assert (bood.argmax(1) != made["bood"].table.embeddings.classes).all()
    nearest = cosines(made["dream_id"]).argmax(1)
    assert (nearest == made["dream_id"].table.embeddings.classes).float().mean() > 0.95
    two = cosines(made["interpolation"]).topk(2).indices.sort(1).values
    assert (two == made["interpolation"].table.embeddings.parents.sort(1).values).all(1).float().mean() > 0.7
    learned = made["learnable"].table.embeddings
    assert len(learned.data) == 4
    assert (learned.data - model(made["learnable"]).table).norm(dim=1).min() > 1e-4


def test_an_option_changes_what_is_decoded(context: PrepareContext) -> None:
    """And the boundary's own options reach the sampler: less noise, shorter ways."""
    near, far = (cosines(made_by(context, "dream_ood", boundary={"sigma": s})[0]) for s in (0.001, 0.1))
    assert near.max(1).values.mean() > far.max(1).values.mean() + 0.2
    few, many = (made_by(context, "bood", share=s)[0].table.embeddings.data for s in (0.05, 0.5))
    assert len(many) == 4 * 25 > len(few) == 4 * 2
    wide = made_by(context, "interpolation", alphas=(1.0,))[0]
    assert cosines(wide).max(1).values.min() == pytest.approx(1)
    shifting = {**ENCODER, "epochs": 1, "augment": "crop"}
    plain, varied = (
        made_by(context, "dream_ood", encoder=shifting, boundary={"augmented": a})[0].table.embeddings.data
        for a in (False, True)
    )
    assert not plain.equal(varied)
    assert len(list(context.folder.glob("features-augmented-*"))) == 1


@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "both"])
def test_images_are_resized_with_the_kernel_of_the_options(kernel: str, context: PrepareContext) -> None:
    synthesiser, made = made_by(context, "bood", count=5, diffusion="dream-toy-larger", resize_kernel=kernel)
    names = ["nearest", "bilinear"] if kernel == "both" else [kernel]
    expected = [
        np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling[name.upper()]))
        for image in model(synthesiser).made.numpy()
        for name in names
    ]
    assert made.data.numpy().tolist() == np.stack(expected).tolist()
    assert made.parents is not None
    assert made.parents.flatten().tolist() == [c for c in model(synthesiser).asked[1].tolist() for _ in names]


@pytest.mark.parametrize("name", ["dream_ood", "learnable", "gaussian", "bood"])
def test_the_seed_decides_and_what_is_kept_is_taken(
    name: str, context: PrepareContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, images = made_by(context, name)
    torch.manual_seed(99)
    second, again = made_by(replace(context, folder=tmp_path / "b"), name)
    assert all(a.equal(b) for a, b in zip(first.table.embeddings, second.table.embeddings, strict=True))
    assert images.data.equal(again.data)
    monkeypatch.setattr(encoder.AnchoredEncoder, "update", lambda *_: pytest.fail("trained again"))
    _, kept = made_by(context, name)
    assert kept.data.equal(images.data)


def test_methods_share_an_encoder_beside_the_diffusion_model(
    context: PrepareContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, model = str(tmp_path / "diffusion"), {"model": "dream-toy"}
    alone = made_by(replace(context, folder=tmp_path / "alone"), "bood")[1]
    made_by(replace(context, folder=tmp_path / "a"), "dream_ood", diffusion={**model, "folder": shared})
    monkeypatch.setattr(encoder.AnchoredEncoder, "update", lambda *_: pytest.fail("trained again"))
    second = made_by(replace(context, folder=tmp_path / "b"), "bood", diffusion={**model, "folder": shared})[1]
    assert second.data.equal(alone.data)
    assert len(list(Path(shared).glob("encoder-*"))) == 1
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["interpolation", "gaussian"])
def test_another_seed_is_another_embedding(name: str, context: PrepareContext) -> None:
    first, other = (made_by(replace(context, seed=s), name)[0].table.embeddings.data for s in (0, 5))
    assert not other.equal(first)


@pytest.mark.parametrize("name", KINDS)
def test_two_grey_classes_fill_a_store(name: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 100, (24, 8, 12, 1), dtype=np.uint8)
    images[::2, :4] += 100
    data = load((images, np.arange(24) % 2), channels=1)
    grey = PrepareContext(untrained(data, torch.device("cpu")), data, tmp_path, 0, torch.device("cpu"))
    kind, own = KINDS[name]
    options = {"diffusion": "dream-toy", "encoder": {**ENCODER, "batch_size": 8}, **own}
    store = fill(tmp_path / "store", kind(5, 2, **options), grey, 12)
    pool = store.images()
    assert pool.array is not None
    assert pool.array.shape == (12, 8, 12, 1)
    parents, _ = read_made(store.paths())
    assert {p for row in parents for p in row} == {0, 1}


@pytest.mark.parametrize(
    "options", [{"alphas": ()}, {"alphas": (0.5, 1.2)}, {"sampler": "pixels"}, {"boundary": {"pick": 60}}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"synthesiser 'dream_ood'.*{next(iter(options))}"):
        DreamOODImages(4, 2, **{"sampler": "interpolation", **options} if "alphas" in options else options)


@pytest.mark.parametrize(
    ("sampler", "unread"),
    [
        ("boundary", {"alphas": (0.2,), "noise": 0.1}),
        (
            "interpolation",
            {"boundary": {"sigma": 0.1}, "encoder": {"epochs": 3}, "scale_to_width": False, "noise": 0.1},
        ),
        ("gaussian", {"boundary": {"k": 3}, "encoder": {"epochs": 3}, "alphas": (0.2,)}),
        ("learnable", {"boundary": {"augmented": True}, "scale_to_width": False, "alphas": (0.2,), "noise": 0.1}),
    ],
)
def test_what_another_sampler_reads_is_refused(sampler: str, unread: dict[str, Any]) -> None:
    for name, value in unread.items():
        with pytest.raises(ConfigError, match=f"method 'dream_ood': {name}=.* is not read with sampler='{sampler}'"):
            parse_options(DreamOODOptions, {"sampler": sampler, name: value}, "method 'dream_ood'")


def test_nothing_is_decoded_before_prepare() -> None:
    with pytest.raises(ConfigError, match="synthesiser 'bood' has no embeddings to decode yet; call prepare"):
        BOODImages(4, 2).sample(IDBatch(torch.zeros(1, 8, 8, 3), torch.zeros(1)), torch.Generator())
