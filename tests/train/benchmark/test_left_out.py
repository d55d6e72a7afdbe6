"""Classes of the data itself as near-OOD: several choices of them, every seed or one each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.errors import ConfigError, UnknownNameError
from guard.evaluation.metrics import auroc
from tests.conftest import Arrays

CHOICES = [["3"], ["0", "4"]]
NEAR = "left-out classes"


@pytest.fixture
def keys(small: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A benchmark that leaves out classes, and has a far set beside."""
    return {
        **small,
        "data": {"train": "digits:0-4", "leave_out": CHOICES},
        "ood": {"far": {"noise": "gaussian_noise"}},
        "methods": {"plain": {}},
        "training": {**small["training"], "calibration": 80, "test": 80},
        "out": str(tmp_path / "out"),
    }


def test_every_seed_trains_without_each_choice(keys: dict[str, Any], tmp_path: Path) -> None:
    found = guard.benchmark(keys)
    rows = [(row["seed"], row["left_out"]) for row in found.rows if row["score"] == "energy"]
    assert sorted(rows) == [(0, "0, 4"), (0, "3"), (1, "0, 4"), (1, "3")]
    assert (found.near, found.far) == ((NEAR,), ("noise",))
    names = {g.manifest.class_names for g in map(guard.load, sorted(tmp_path.glob("out/runs/without-*/*/plain-s0")))}
    assert names == {("0", "1", "2", "4"), ("1", "2", "3")}
    text = (tmp_path / "out/results.md").read_text()
    assert "± is the standard deviation over seeds and choices of classes" in text
    assert "## Each choice of left-out classes" in text
    lines = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    assert {line["left_out"] for line in lines} == {"3", "0, 4"}
    assert guard.benchmark(keys).rows == found.rows  # all of it is there


def test_the_near_set_is_the_images_of_these_classes(
    keys: dict[str, Any], tmp_path: Path, digits: Callable[[str], Arrays]
) -> None:
    keys |= {"seeds": [1], "max_images": None, "scores": ["energy"]}
    keys["data"]["leave_out"] = ["3"]  # one choice
    row = guard.benchmark(keys).rows[0]
    g = guard.load(next(tmp_path.glob("out/runs/without-3/*/plain-s1")))
    images, labels = digits("0-4")
    from guard.data import load

    g = guard.fit(g, load("digits:0,1,2,4", image_size=16), score="energy")
    data = load("digits:0-4", image_size=16)
    assert data.array is not None
    outside = g.predict(np.asarray(data.array)[labels == 3]).ood_score
    assert len(images) == len(labels)
    inside = g.predict(_test_images(row, tmp_path)).ood_score
    assert row["ood"][NEAR]["auroc"] == pytest.approx(auroc(inside, outside), abs=1e-6)


def _test_images(row: dict[str, Any], tmp_path: Path) -> np.ndarray:
    from guard.data import load
    from guard.data.held_out import Draw
    from guard.data.left_out import leave_out

    inside, _ = leave_out(load("digits:0-4", image_size=16), ["3"])
    return inside.take(Draw(row["seed"], 80, 80).rows(inside)["test"])


def test_a_choice_for_each_seed_in_turn(keys: dict[str, Any]) -> None:
    keys["data"]["by_seed"] = True
    keys |= {"seeds": [0, 1, 2], "scores": ["energy"]}
    rows = guard.benchmark(keys).rows
    assert sorted((row["seed"], row["left_out"]) for row in rows) == [(0, "3"), (1, "0, 4"), (2, "3")]


def test_with_test_images_the_near_set_is_of_them(keys: dict[str, Any], four: Arrays) -> None:
    images, labels = four
    keys["data"] = {"train": (images[:300], labels[:300]), "test": (images[300:], labels[300:]), "leave_out": ["3"]}
    keys |= {"seeds": [0], "scores": ["energy"], "max_images": None}
    from guard.requests import BenchmarkRequest, TrainRequest
    from train.benchmark.benchmark import read
    from train.benchmark.sets import by_choice, open_sets

    asked, folder = read(BenchmarkRequest(file=keys))
    (sets,) = by_choice(asked, open_sets(asked, folder, TrainRequest(data=None, image_size=16)))
    assert sets.test is not None
    assert len(sets.test) + len(sets.ood[NEAR]) == 100
    assert len(sets.source) == 225
    assert sets.test.class_names == sets.source.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("leave_out", "error", "sentence"),
    [
        (["9"], UnknownNameError, "'9'"),
        ([["0", "1", "2", "3"]], ConfigError, "at least two of"),
        ([["0", "1"], ["1", "0"]], ConfigError, "each choice once|list of class names"),
        ("3", ConfigError, "must be a list of class names"),
    ],
)
def test_impossible_choices_are_refused(
    leave_out: Any, error: type[Exception], sentence: str, keys: dict[str, Any]
) -> None:
    keys["data"]["leave_out"] = leave_out
    with pytest.raises(error, match=sentence):
        guard.benchmark(keys)


def test_a_set_of_ones_own_cannot_have_its_name(keys: dict[str, Any]) -> None:
    keys["ood"]["near"] = {NEAR: "digits:8-9"}
    with pytest.raises(ConfigError, match="two OOD sets of the benchmark are called 'left-out classes'"):
        guard.benchmark(keys)
