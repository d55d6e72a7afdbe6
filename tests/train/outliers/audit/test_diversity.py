"""Outliers that are much the same are named, whatever synthesiser made them: in the audit, and in a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guard.data import ImageData, load
from train.outliers.audit.audit import audit
from train.outliers.audit.diversity import diversity, warn_of_collapse
from train.outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext
from train.outliers.store.drawing import Stored
from train.runs.synth import untrained


def noise(n: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (n, 12, 12, 3))
    return (128 + scale * (values - 128.0)).round().astype(np.uint8)


@pytest.fixture
def inside() -> ImageData:
    return load((noise(60), np.arange(60) % 2))


def test_diversity_is_the_mean_difference_of_pairs(inside: ImageData) -> None:
    made = noise(40, seed=1)
    pairs = [np.sqrt(((made[i].astype(float) - made[i + 20]) ** 2).mean()) for i in range(20)]
    found = diversity(load(made, labelled=False), inside)
    assert found.outliers == pytest.approx(np.mean(pairs))
    assert found.outliers == pytest.approx(found.inliers, rel=0.05)


@pytest.mark.parametrize(("scale", "alike"), [(0.05, True), (0.5, False)])
def test_outliers_that_are_much_alike_are_named(
    scale: float, alike: bool, inside: ImageData, caplog: pytest.LogCaptureFixture
) -> None:
    outside = load(noise(40, 1, scale), labelled=False)
    found = audit(outside, inside)
    assert any("much alike" in warning for warning in found.warnings) == alike
    assert all(len(warning) < 300 for warning in found.warnings if "much alike" in warning)
    assert found.diversity is not None
    assert f"{found.diversity[0]:.1f} grey levels" in dict(found.rows())["diversity"]
    warn_of_collapse(outside, inside, "synthesiser 'x'")
    assert ("synthesiser 'x': the outliers are much alike" in caplog.text) == alike


class OneImage(ImageSynthesiser):
    """The same image, whatever it sees."""

    name = "one_image"

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return Outliers(torch.full((self.count, 12, 12, 3), 9, dtype=torch.uint8), "one")


def test_a_store_of_one_image_is_named_in_a_training_run(
    inside: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = PrepareContext(untrained(inside, torch.device("cpu")), inside, tmp_path, 0, torch.device("cpu"))
    Stored(OneImage(16, 2), 4, 20).prepare(context)
    assert "synthesiser 'one_image': the outliers are much alike" in caplog.text
