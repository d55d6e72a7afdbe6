"""ATOL's latents: the classes, the cube, and who is kept out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guard.data import load
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.generators.dcgan import TrainedDCGANOptions
from train.methods.atol import AuxiliaryLatents, LatentOptions, ball, class_means, outlier_latents
from train.outliers.base import IDBatch, PrepareContext


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_class_means_are_signs_times_the_mean_a_pattern_for_each_class() -> None:
    means = class_means(10, 100, 5.0, generator())
    assert means.shape == (10, 100)
    assert means.abs().eq(5).all()
    assert len(means.unique(dim=0)) == 10
    assert abs(float(means.mean())) < 5 * 4 / 1000**0.5


def test_too_few_coordinates_for_the_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="latent=2 is too small to tell 5 classes apart by signs; raise it"):
        class_means(5, 2, 5.0, generator())


@pytest.mark.parametrize(("latent", "std"), [(2, 0.1), (100, 0.5)])
def test_the_ball_holds_999_in_1000_latents_of_a_class(latent: int, std: float) -> None:
    noise = std * torch.randn(50_000, latent, generator=generator(), dtype=torch.float64)
    outside = (noise.norm(dim=-1) > ball(latent, std)).sum().item()
    assert abs(outside - 50) < 4 * 50**0.5


def test_outliers_fill_the_cube() -> None:
    drawn = outlier_latents(class_means(4, 8, 5.0, generator()), 20_000, 20.0, 0.0, generator())
    assert drawn.shape == (20_000, 8)
    assert -10 <= drawn.min() < -9.99
    assert 9.99 < drawn.max() <= 10
    assert float(drawn.std()) == pytest.approx(20 / 12**0.5, rel=0.01)  # uniform


def test_outliers_stay_out_of_the_classes() -> None:
    """In the plane, a quarter of the cube lies within the balls: without rejection many would fall into them."""
    means = class_means(4, 2, 5.0, torch.Generator().manual_seed(next(s for s in range(99) if distinct(s))))
    careless = outlier_latents(means, 500, 20.0, 0.0, generator())
    near = torch.cdist(careless, means).amin(-1) <= 2.8
    assert 0.15 < near.float().mean() < 0.35
    kept = outlier_latents(means, 500, 20.0, 2.8, generator())
    assert kept.shape == (500, 2)
    assert (torch.cdist(kept, means).amin(-1) > 2.8).all()
    # those that are far are the draws themselves, in their order
    assert all(row in kept.tolist() for row in careless[~near][:100].tolist())


def distinct(seed: int) -> bool:
    try:
        class_means(4, 2, 1.0, generator(seed))
    except ConfigError:
        return False
    return True


@pytest.fixture
def prepared(four: Arrays, tmp_path: Path) -> AuxiliaryLatents:
    made = AuxiliaryLatents(40, 25, 4, LatentOptions(gan=TrainedDCGANOptions(latent=16, width=2, epochs=1)))
    made.prepare(PrepareContext(None, load(four), tmp_path, 0, torch.device("cpu")))  # type: ignore[arg-type]
    return made


def test_latents_with_a_class_lie_around_its_mean(prepared: AuxiliaryLatents) -> None:
    z, labels = prepared.latents(torch.tensor([2, 0, 3]), generator())
    assert labels.tolist() == [2, 0, 3] * 13 + [2] + [-1] * 25
    noise = z[:40] - prepared.means[labels[:40]]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.1)
    assert z[40:].abs().max() <= 10
    assert (torch.cdist(z[40:], prepared.means).amin(-1) > ball(16, 0.1)).all()


def test_generated_images_are_not_shifted_or_mirrored(prepared: AuxiliaryLatents) -> None:
    """As officially; the engine leaves such images as they are."""
    assert not prepared.augmented


def test_the_sample_has_both_kinds_labelled(prepared: AuxiliaryLatents) -> None:
    batch = IDBatch(torch.zeros(5, 16, 16, 3, dtype=torch.uint8), torch.tensor([3, 1, 1, 0, 2]))
    made = prepared.sample(batch, generator())
    assert made.data.shape == (65, 16, 16, 3)
    assert made.data.dtype == torch.uint8
    assert made.labels is not None
    assert made.labels[:40].tolist() == batch.labels.repeat(8).tolist()
    assert (made.labels[40:] == -1).all()


def test_the_means_are_in_checkpoints_and_the_generator_is_not(prepared: AuxiliaryLatents) -> None:
    assert list(prepared.state_dict()) == ["means"]
    assert prepared.means.abs().eq(5).all()
