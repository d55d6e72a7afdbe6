"""A benchmark so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard.requests import BenchmarkRequest
from train.benchmark.file import read
from train.benchmark.plan import Plan, train_request
from train.benchmark.planning import planned
from train.benchmark.sets import open_sets

SMALL: dict[str, Any] = {
    "name": "small",
    "data": "digits:0-2",
    "ood": {"near": {"digit 8": "digits:8-9"}, "far": {"letters": "letters", "noise": "gaussian_noise"}},
    "backbones": ["wrn10_2"],
    "epochs": 1,
    "seeds": [0, 1],
    "training": {"device": "cpu", "image_size": 16, "batch_size": 64, "calibration": 60, "test": 60},
    "methods": {"plain": {}, "phase_mix": {"init": "plain", "tune_epochs": 2}},
    "scores": ["energy", "knn"],
    "max_images": 40,
}


@pytest.fixture
def small() -> dict[str, Any]:
    """The keys of a small benchmark."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}


def yaml_text(keys: dict[str, Any]) -> str:
    """The file of these keys."""
    import yaml

    return yaml.safe_dump(keys, sort_keys=False)


@pytest.fixture
def small_file(small: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml_text(small))
    return path


def plan_of(keys: dict[str, Any], out: Path | None = None) -> Plan:
    """The plan of these keys, whose images are opened."""
    asked, folder = read(BenchmarkRequest(file=keys, out=out))
    request = train_request(asked, "wrn10_2", {"method": "plain", **asked.training}, seed=0)
    return planned(asked, folder, open_sets(asked, folder, request))


def identities(keys: dict[str, Any]) -> dict[str, str]:
    """Of each run, by its place."""
    plan = plan_of(keys)
    return {run.place: plan.identity(run) for run in plan.runs}
