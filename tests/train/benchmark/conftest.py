"""A benchmark so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
