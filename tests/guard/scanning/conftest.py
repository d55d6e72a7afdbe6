"""A guard of three colours, and a folder of 90 small images with its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from guard.artefact.files import write_onnx
from tests.serving.conftest import colour_graph, colour_manifest

CLASSES = ("red", "green", "blue")
PER_CLASS = 30
SMALL: dict[str, Any] = {"shard_size": 20, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """colours.onnx: the mean colour is the class, dark images are out-of-distribution."""
    path = tmp_path_factory.mktemp("scan") / "colours.onnx"
    write_onnx(path, colour_graph(), colour_manifest())
    return path


def pixels() -> np.ndarray:
    """uint8 (90, 8, 8, 3): red, green, blue, 30 each; the first of each class is dark."""
    images = np.random.default_rng(0).integers(0, 60, (len(CLASSES) * PER_CLASS, 8, 8, 3), dtype=np.uint8)
    for c in range(len(CLASSES)):
        images[c * PER_CLASS + 1 : (c + 1) * PER_CLASS, ..., c] += 150
    return images


def write_images(root: Path) -> Path:
    """A sub-folder per class."""
    for i, image in enumerate(pixels()):
        path = root / CLASSES[i // PER_CLASS] / f"{i % PER_CLASS:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos")


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Every row of every shard, in the order of the files."""
    return [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
