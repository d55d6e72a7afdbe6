"""Data with few images per class, and scores that fit nothing: the images calibrate and measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import guard
from guard.data.splits import split
from guard.errors import CalibrationError, DataError

HALF: dict[str, Any] = {"mean": 0.5, "std": 0.5, "device": "cpu"}


class Means(nn.Module):
    """Logits of 30 classes: how near the mean colour is to c / 30."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 30)
        levels = torch.linspace(-1, 1, 30)
        with torch.no_grad():
            self.linear.weight.copy_(20 * levels[:, None])
            self.linear.bias.copy_(-10 * levels**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.mean((1, 2, 3))[:, None])
        return logits


def one_each(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    levels = np.linspace(0, 255, 30)[:, None, None, None]
    return np.clip(levels + rng.normal(0, 3, (30, 16, 16, 3)), 0, 255).round().astype(np.uint8), np.arange(30)


def test_one_image_per_class_is_enough_for_a_score_that_fits_nothing() -> None:
    g = guard.fit(Means().eval(), one_each(), score="energy", **HALF)
    splits = g.manifest.data[0].splits
    assert g.manifest.calibration.n >= 19  # what 5 % needs
    assert sum(splits.values()) == 30
    assert splits["train"] == 1
    assert g.predict(one_each(1)[0]).label.tolist() == list(range(30))


def test_its_splits_are_drawn_again_from_its_card() -> None:
    g = guard.fit(Means().eval(), one_each(), score="energy", **HALF)
    again = guard.calibrate(g, one_each())
    assert again.manifest.calibration == g.manifest.calibration


def test_a_score_that_is_fitted_per_class_still_needs_them() -> None:
    with pytest.raises(DataError, match="one image of each class must stay for training"):
        guard.fit(Means().eval(), one_each(), score="mahalanobis", **HALF)


def test_too_few_for_alpha_at_all_says_so() -> None:
    images, labels = one_each()
    with pytest.raises(CalibrationError, match="alpha"):
        guard.fit(Means().eval(), (images[:12], labels[:12]), class_names=[str(i) for i in range(30)], **HALF)


def test_more_images_are_divided_as_before() -> None:
    labels = np.arange(400) % 4
    before, thin = split(labels, seed=3), split(labels, seed=3, spread_thin=True)
    assert all(np.array_equal(before[name], thin[name]) for name in before)


@pytest.mark.parametrize("copies", [1, 3])
def test_spread_thin_keeps_one_in_all(copies: int) -> None:
    labels = np.repeat(np.arange(10), copies)
    firsts = np.repeat(np.arange(10) * copies, copies)
    parts = split(labels, seed=0, calibration=6 * copies, test=3 * copies, originals=firsts, spread_thin=True)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": copies,
        "calibration": 6 * copies,
        "test": 3 * copies,
    }
    with pytest.raises(DataError, match="must stay"):
        split(labels, seed=0, calibration=6 * copies, test=3 * copies, originals=firsts)
