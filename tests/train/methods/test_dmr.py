"""MLM, DMR and DMR+MLM against plain numpy, with a linear pair whose latents can be read off its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import ImageData, load
from guard.errors import ConfigError
from tests.references.latents import class_means as slow_class_means
from tests.references.latents import outlier_latent
from train.generators.latent_pair import arithmetic as latent_arithmetic
from train.generators.latent_pair import register_pair
from train.generators.latent_pair.arithmetic import classes_to_mix
from train.methods.dmr import LatentArithmetic, MarginalLatents, MeanLatents, MeanMarginalLatents
from train.outliers.base import IDBatch, PrepareContext, create_synthesiser

CLASSES, SIDE = 6, 4


class LinearPair:
    """w = (x - 128) / 4, one style per row of the image; decoding keeps what it was given."""

    def __init__(self) -> None:
        self.encoded = 0
        self.decoded = torch.zeros(0)

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return (images.float() - 128).flatten(2) / 4

    def generate(self, w: Tensor) -> Tensor:
        self.decoded = w
        return (w * 4 + 128).round().clamp(0, 255).to(torch.uint8).unflatten(2, (SIDE, 3))


class DrawingPair(LinearPair):
    """Latents of class c are c + small noise."""

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        self.drawn = len(labels)
        noise = torch.randn(len(labels), SIDE, 3 * SIDE, generator=generator)
        return labels.view(-1, 1, 1) + 0.1 * noise


@pytest.fixture
def data() -> ImageData:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % CLASSES
    images = generator.integers(60, 120, (90, SIDE, SIDE, 3)) + 15 * labels[:, None, None, None]
    return load((images.astype(np.uint8), labels))


def prepared(
    kind: type[LatentArithmetic], data: ImageData, folder: Path, pair: Any = None, count: int = 40, **options: Any
) -> tuple[LatentArithmetic, Any]:
    """The synthesiser with its pair."""
    pair = pair or LinearPair()
    register_pair("linear", lambda context, options: pair)
    made = kind(count, CLASSES, pair="linear", **options)
    made.prepare(PrepareContext(None, data, folder, 0, torch.device("cpu")))  # type: ignore[arg-type]  # it reads no network
    return made, pair


@pytest.fixture
def batch(data: ImageData) -> IDBatch:
    assert data.array is not None
    assert data.labels is not None
    return IDBatch(torch.from_numpy(data.array[:50].copy()), torch.from_numpy(data.labels[:50].copy()))


def latents(batch: IDBatch) -> tuple[np.ndarray, np.ndarray]:
    return LinearPair().encode(batch.images).numpy(), batch.labels.numpy()


def sampled(synthesiser: LatentArithmetic, batch: IDBatch, seed: int = 1) -> Any:
    return synthesiser.sample(batch, torch.Generator().manual_seed(seed))


def mean_latent(data: ImageData) -> np.ndarray:
    """The mean over all images, where G(0) is."""
    assert data.array is not None
    return LinearPair().encode(torch.from_numpy(data.array.copy())).numpy().astype(np.float64).mean(0)


def members(target: np.ndarray, w: np.ndarray, labels: np.ndarray, classes: list[int]) -> list[int]:
    """Which latents, one of each class, have the mean `target`: classes are far apart, so greedily by brute force."""
    import itertools

    choices = [[i for i in range(len(w)) if labels[i] == c] for c in classes]
    for chosen in itertools.product(*choices):
        if np.allclose(w[list(chosen)].mean(0), target, atol=1e-4):
            return list(chosen)
    raise AssertionError("no such mean")


def test_class_means_are_those_of_a_loop(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_arithmetic, "ENCODED_AT_ONCE", 32)  # several batches, the last one smaller
    dmr, _ = prepared(MarginalLatents, data, tmp_path)
    assert data.array is not None
    assert data.labels is not None
    w = LinearPair().encode(torch.from_numpy(data.array.copy())).numpy()
    np.testing.assert_allclose(dmr.means.numpy(), slow_class_means(w, data.labels, CLASSES), rtol=1e-6, atol=1e-6)


def test_class_means_are_kept_for_one_pair_and_one_set_of_images(data: ImageData, tmp_path: Path) -> None:
    first, _ = prepared(MarginalLatents, data, tmp_path)
    again, pair = prepared(MarginalLatents, data, tmp_path)
    assert pair.encoded == 0
    assert again.means.equal(first.means)

    class Other(LinearPair):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) + 1

    other, _ = prepared(MarginalLatents, data, tmp_path, Other())
    assert not other.means.allclose(first.means)
    fewer, _ = prepared(MarginalLatents, data.subset(np.arange(60)), tmp_path)
    assert not fewer.means.equal(first.means)


def test_dmr_of_factor_one_decodes_w_without_its_classs_mean(data: ImageData, batch: IDBatch, tmp_path: Path) -> None:
    dmr, pair = prepared(MarginalLatents, data, tmp_path, lambda_high=1.0)
    made = sampled(dmr, batch)
    w, labels = latents(batch)
    means = dmr.means.numpy()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:40].tolist()
    expected = np.stack([outlier_latent(w, labels, [i], means, 1.0) for i in order]) + mean_latent(data)
    np.testing.assert_allclose(pair.decoded.numpy(), expected, atol=1e-5)
    assert made.parents.tolist() == [[labels[i]] for i in order]
    assert made.data.equal(LinearPair().generate(torch.from_numpy(expected).float()))


@pytest.mark.parametrize(("variant", "values"), [("paper", None), ("code", {1.0, 3.0})])
def test_the_emphasis_is_one_factor_per_outlier(
    variant: str, values: set[float] | None, data: ImageData, batch: IDBatch, tmp_path: Path
) -> None:
    pair = DrawingPair()
    dmr, _ = prepared(MarginalLatents, data, tmp_path, pair, count=400, variant=variant, augment_outliers=False)
    generator = torch.Generator().manual_seed(0)
    factors = dmr.emphasis(generator, torch.device("cpu")).flatten()
    assert factors.min() >= 1
    assert factors.max() <= 3
    if values is not None:
        assert set(factors.tolist()) == values
        assert 0.4 < (factors == 1).float().mean() < 0.6
    else:
        counts = torch.histc(factors, 4, 1, 3)
        assert counts.min() > 70
    sampled(dmr, batch)
    drawn = pair.decoded - dmr.origin
    more: dict[str, Any] = {"count": 400, "variant": variant, "augment_outliers": False, "lambda_high": 1.0}
    plain, plain_pair = prepared(MarginalLatents, data, tmp_path, DrawingPair(), **more)
    sampled(plain, batch)
    unscaled = plain_pair.decoded - plain.origin
    seen = (drawn / unscaled).flatten(1).nanmedian(1).values
    torch.testing.assert_close(drawn, seen.view(-1, 1, 1) * unscaled, atol=1e-4, rtol=1e-4)  # some latents are 0
    assert seen.std() > 0.3


class ShiftedPair(LinearPair):
    """The same generator, whose latents have another origin."""

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) + 7

    def generate(self, w: Tensor) -> Tensor:
        return super().generate(w - 7)


class ShiftedDrawingPair(ShiftedPair):
    """As `DrawingPair`."""

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        return DrawingPair().sample(labels, generator) + 7


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("kind", [MarginalLatents, MeanMarginalLatents, MeanLatents])
def test_where_a_generators_latents_have_their_zero_changes_no_outlier(
    kind: type[LatentArithmetic], variant: str, data: ImageData, batch: IDBatch, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"variant": variant, "augment_outliers": False}
    options |= {"origin": "mean"} if kind.subtracts else {}
    made = [
        sampled(prepared(kind, data, tmp_path, pair, **options)[0], batch).data.int()
        for pair in (DrawingPair(), ShiftedDrawingPair())
    ]
    assert (made[0] - made[1]).abs().max() <= 1  # rounded to grey levels of latents that float32 shifted


def test_a_generators_own_zero_is_kept_where_it_is_asked_for(data: ImageData, batch: IDBatch, tmp_path: Path) -> None:
    """And with the official code's variant, which decodes a StyleGAN's w - mu_y as it is."""
    decoded = []
    for origin in ("own", "mean"):
        dmr, pair = prepared(MarginalLatents, data, tmp_path, ShiftedPair(), lambda_high=1.0, origin=origin)
        sampled(dmr, batch)
        decoded.append(pair.decoded + 7)  # as it was given
    np.testing.assert_allclose((decoded[1] - decoded[0])[0].numpy(), mean_latent(data) + 7, atol=1e-4)
    for origin, kept in ((None, True), ("own", True), ("mean", False)):
        code, _ = prepared(MarginalLatents, data, tmp_path, DrawingPair(), variant="code", origin=origin)
        assert (code.origin == 0).all() == kept


def test_mlm_decodes_means_of_latents_of_different_classes(data: ImageData, batch: IDBatch, tmp_path: Path) -> None:
    mlm, pair = prepared(MeanLatents, data, tmp_path, count=5, k=2)
    small = IDBatch(batch.images[:24], batch.labels[:24])
    made = sampled(mlm, small)
    w, labels = latents(small)
    for i, classes in enumerate(made.parents.tolist()):
        assert len(set(classes)) == 2
        assert members(pair.decoded[i].numpy(), w, labels, classes)


def test_dmr_mlm_is_the_mean_of_marginals_times_the_factor(data: ImageData, batch: IDBatch, tmp_path: Path) -> None:
    both, pair = prepared(MeanMarginalLatents, data, tmp_path, count=12, k=3, lambda_low=2.0, lambda_high=2.0)
    mlm, mixed = prepared(MeanLatents, data, tmp_path, count=12, k=3)
    made, plain = sampled(both, batch), sampled(mlm, batch)
    means = both.means.numpy()
    assert made.parents.equal(plain.parents)
    for i, classes in enumerate(made.parents.tolist()):
        assert len(set(classes)) == 3
        expected = 2 * (mixed.decoded[i].numpy() - means[classes].mean(0)) + mean_latent(data)
        np.testing.assert_allclose(pair.decoded[i].numpy(), expected, atol=1e-4)


def test_the_official_code_draws_latents_and_takes_the_generators_means(data: ImageData, tmp_path: Path) -> None:
    dmr, pair = prepared(
        MarginalLatents, data, tmp_path, DrawingPair(), count=200, variant="code", augment_outliers=False
    )
    expected = torch.arange(CLASSES).view(-1, 1, 1).expand(-1, SIDE, 3 * SIDE).float()
    torch.testing.assert_close(dmr.means, expected, atol=0.02, rtol=0)
    assert pair.encoded == 0
    batch = IDBatch(torch.zeros(10, SIDE, SIDE, 3, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    made = sampled(dmr, batch)
    assert len(made.data) == 200
    assert set(made.parents.flatten().tolist()) == set(range(CLASSES))
    assert pair.decoded.abs().max() < 2  # the classes are gone
    assert len(set(pair.decoded.flatten(1).sum(1).tolist())) == 200
    mlm, pair = prepared(
        MeanLatents, data, tmp_path, DrawingPair(), count=50, variant="code", augment_outliers=False, k=3
    )
    made = sampled(mlm, batch)
    torch.testing.assert_close(pair.decoded.mean((1, 2)), made.parents.float().mean(1), atol=0.1, rtol=0)
    assert pair.drawn == 3 * 50  # none is in two outliers
    with pytest.raises(ConfigError, match=r"pair 'linear' has no sample\(labels, generator\); use variant='paper'"):
        prepared(MarginalLatents, data, tmp_path, LinearPair(), variant="code")


def test_the_official_code_augments_and_the_paper_does_not(data: ImageData, batch: IDBatch, tmp_path: Path) -> None:
    made = {}
    for variant, augment in (("paper", None), ("paper", True), ("code", None), ("code", False)):
        dmr, _ = prepared(MarginalLatents, data, tmp_path, DrawingPair(), variant=variant, augment_outliers=augment)
        made[variant, augment] = sampled(dmr, batch)
    augmented = [key for key, outliers in made.items() if outliers.origin.endswith("augmented")]
    assert augmented == [("paper", True), ("code", None)]
    assert not made["paper", True].data.equal(made["paper", None].data)


@pytest.mark.parametrize(("k", "classes", "mixed"), [(5, 10, 5), (5, 6, 5), (5, 5, 4), (5, 3, 2), (5, 2, 2), (2, 2, 2)])
def test_fewer_latents_are_mixed_than_there_are_classes(k: int, classes: int, mixed: int) -> None:
    assert classes_to_mix(k, classes) == mixed


def test_two_classes_and_a_batch_smaller_than_the_outliers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8)
    data = load((images, np.arange(12) % 2))
    batch = IDBatch(torch.from_numpy(images[:6].copy()), torch.arange(6) % 2)
    for kind in (MeanLatents, MarginalLatents, MeanMarginalLatents):
        pair = LinearPair()
        register_pair("linear", lambda context, options, pair=pair: pair)  # type: ignore[misc]
        made = kind(9, 2, pair="linear")
        made.prepare(PrepareContext(None, data, tmp_path, 0, torch.device("cpu")))  # type: ignore[arg-type]
        outliers = sampled(made, batch)
        assert outliers.data.shape == (9, SIDE, SIDE, 3)
        assert outliers.parents.shape == (9, 1 if kind is MarginalLatents else 2)


def test_options_and_a_missing_preparation_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lambda_low=4.0 is above lambda_high=3.0; swap the two"):
        create_synthesiser("dmr", 8, 4, lambda_low=4.0)
    with pytest.raises(ConfigError, match="'dmr' has no option 'k'"):
        create_synthesiser("dmr", 8, 4, k=5)
    batch = IDBatch(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(ConfigError, match=r"no generator yet; call prepare\(context\) first"):
        create_synthesiser("mlm", 8, 4).sample(batch, torch.Generator())
