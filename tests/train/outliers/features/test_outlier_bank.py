"""Outliers by class: which are drawn for whom."""

from __future__ import annotations

import pytest
import torch

from guard.errors import ConfigError
from train.outliers.features.outlier_bank import OutlierBank

CLASSES = torch.tensor([2, 0, 1, 0, 2, 2])


def bank() -> OutlierBank:
    return OutlierBank(torch.arange(6.0)[:, None], CLASSES, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pairs_of_a_class_are_of_that_class_and_evenly_drawn() -> None:
    labels = torch.arange(3).repeat(2000)
    drawn = bank().draw(labels, generator())[:, 0].long()
    assert CLASSES[drawn].equal(labels)
    counts = drawn.bincount(minlength=6)
    expected = torch.tensor([2000 / 3, 1000, 2000, 1000, 2000 / 3, 2000 / 3])
    assert ((counts - expected).abs() < 110).all()  # 4.5 standard deviations


def test_the_seed_decides() -> None:
    labels = torch.arange(3).repeat(20)
    one, same, other = (bank().draw(labels, generator(s)) for s in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


def test_a_class_without_outliers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"every class needs an outlier of its own, \[1, 3\] of 4 have none"):
        OutlierBank(torch.zeros(2, 1), torch.tensor([0, 2]), 4)
