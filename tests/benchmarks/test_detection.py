"""The committed results stay readable, and their recipes are ones that guard benchmark takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import detection, recipes
from guard.data import load
from guard.requests import BenchmarkRequest
from train.benchmark.file import read
from train.benchmark.plan import train_request
from train.benchmark.planning import planned
from train.benchmark.sets import open_sets

COMMITTED = sorted(detection.RESULTS.glob("detection_*.json"))


def arguments(**given: Any) -> argparse.Namespace:
    own = {"kind": "digits", "outliers": None, "only": None, "near": [], "name": None, "runs": "runs/x", "seeds": 1,
           "backbone": "wrn10_2", "epochs": 1}  # fmt: skip
    return argparse.Namespace(**{**own, **given})


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_are_read(path: Path) -> None:
    record = json.loads(path.read_text())
    rows = [row for row in record["rows"] if "train_seconds" in row]
    text = detection.table(rows, record["near"])
    assert text.count("\n") >= 3
    for row in rows[:3]:
        assert f"| {row['method']} | {row['score']} |" in text


def test_every_recipe_is_one_that_a_benchmark_takes(tmp_path: Path) -> None:
    asked, folder = read(BenchmarkRequest(file=detection.asked(arguments(outliers="patch_shuffle")), out=tmp_path))
    request = train_request(asked, "wrn10_2", {"method": "plain"}, seed=0)
    (tmp_path / "runs" / "wrn10_2" / "plain-s0").mkdir(parents=True)
    plan = planned(asked, folder, open_sets(asked, folder, request))
    runs = {run.name: run for run in plan.runs}
    assert len(runs) > 35
    assert set(runs) == set(recipes.methods("x"))
    assert [score.label for score in runs["rejection, strokes"].scores][:2] == ["rejection", "rejection+energy"]
    assert [score.label for score in runs["npos"].scores][:2] == ["knn", "msp"]
    assert plan.request(runs["oal"]).options["teacher"] == {"model": str(tmp_path / "runs" / "wrn10_2" / "plain-s0")}
    folders = {plan.request(runs[name]).options["diffusion"]["folder"] for name in (*recipes.DIFFUSED, "fodfom", "oal")}
    assert len(folders) == 1
    assert len({plan.request(runs[name]).options["pair"]["folder"] for name in ("mlm", "dmr", "dmr_mlm matched")}) == 1


def test_one_training_brings_the_run_that_it_starts_from() -> None:
    assert list(detection.asked(arguments(only=["phase_mix"]))["methods"]) == ["plain", "phase_mix"]
    assert list(detection.asked(arguments(only=["vos"]))["methods"]) == ["vos"]
    with pytest.raises(SystemExit, match="no training is called 'vso'"):
        detection.asked(arguments(only=["vso"]))


def test_sets_that_share_classes_with_the_outliers_are_measured_without_them_too() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    ood = {"a": load((images, np.array(["x", "y", "z"] * 2)), all_classes=False)}
    outliers: Any = load((images, np.array(["y", "w", "w"] * 2)))
    found = detection.without_shared_classes(ood, outliers)
    assert {name: len(images) for name, images in found.items()} == {"a": 6, "a, other classes": 4}
