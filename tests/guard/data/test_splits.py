"""Splits are disjoint, complete, stratified, and can be made again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guard.data import default_count, split
from guard.errors import DataError


def random_labels(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(2, 12))
    weights = generator.dirichlet(np.ones(classes))
    drawn = generator.choice(classes, int(generator.integers(20, 600)), p=weights)
    return generator.permutation(np.concatenate([np.arange(classes), drawn]))


@pytest.mark.parametrize("seed", range(30))
def test_properties(seed: int) -> None:
    labels = random_labels(seed)
    generator = np.random.default_rng(seed + 1000)
    spare = len(labels) - len(np.unique(labels))
    test = int(generator.integers(0, spare + 1))
    calibration = int(generator.integers(0, spare - test + 1))
    parts = split(labels, seed=seed, calibration=calibration, test=test)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": len(labels) - test - calibration,
        "calibration": calibration,
        "test": test,
    }
    together = np.concatenate(list(parts.values()))
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    assert set(labels[parts["train"]]) == set(labels)
    for part in parts.values():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    again = split(labels, seed=seed, calibration=calibration, test=test)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_stratified_within_one_image() -> None:
    labels = np.repeat([0, 1, 2], [100, 207, 693])
    parts = split(labels, seed=3, calibration=101, test=200)
    for name, count in (("calibration", 101), ("test", 200)):
        counts = np.bincount(labels[parts[name]], minlength=3)
        assert np.abs(counts - count * np.array([0.1, 0.207, 0.693])).max() < 1


def test_seed_decides_and_calibration_leaves_test_alone() -> None:
    labels = random_labels(1)
    first = split(labels, seed=0, calibration=5, test=9)
    assert not np.array_equal(first["test"], split(labels, seed=1, calibration=5, test=9)["test"])
    assert np.array_equal(first["test"], split(labels, seed=0, calibration=0, test=9)["test"])


def test_the_draw_is_uniform() -> None:
    """Each image of a class is held out equally often over seeds (chi-square, 1 in 10,000)."""
    labels = np.repeat([0, 1], 20)
    held = np.zeros(40)
    for seed in range(400):
        held[split(labels, seed=seed, calibration=0, test=10)["test"]] += 1
    expected = 400 * 10 / 40
    assert ((held - expected) ** 2 / (expected * 0.75)).sum() < 80


def test_counts_recover_a_split_made_from_shares_or_defaults() -> None:
    labels = random_labels(2)
    for wanted in (None, 0.15):
        parts = split(labels, seed=7, calibration=wanted, test=wanted)
        again = split(labels, seed=7, calibration=len(parts["calibration"]), test=len(parts["test"]))
        assert all(np.array_equal(parts[name], again[name]) for name in parts)


@pytest.mark.parametrize(
    ("n", "count"), [(40, 10), (1443, 360), (1600, 400), (2000, 400), (4000, 400), (5000, 500), (50_000, 2000)]
)
def test_default_count(n: int, count: int) -> None:
    assert default_count(n) == count
    assert len(split(np.arange(n) % 2, seed=0)["calibration"]) == count


def test_none_held_out() -> None:
    parts = split(np.array([0, 1, 1]), seed=0, calibration=0, test=0)
    assert parts["train"].tolist() == [0, 1, 2]
    assert len(parts["test"]) == len(parts["calibration"]) == 0


def test_rare_classes_keep_their_only_image_for_training() -> None:
    labels = np.array([0] * 50 + [1])
    parts = split(labels, seed=0, calibration=24, test=25)
    assert 50 in parts["train"]
    with pytest.raises(DataError, match=r"calibration=25 and test=25 .* one image of each class .* leaves 49"):
        split(labels, seed=0, calibration=25, test=25)


@pytest.mark.parametrize("bad", [-1, 1.0, 1.5, -0.1, float("nan"), "10", True])
def test_refused_counts(bad: Any) -> None:
    with pytest.raises(DataError, match=r"test must be a number of images"):
        split(np.arange(20) % 2, seed=0, calibration=0, test=bad)
