"""Twelve images of three classes, in every form that `load` accepts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.data import ImageData
from guard.manifest import Preprocess

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 20, 20, 3), np.uint8)
LABELS = np.array([0, 1, 2] * 4)
NAMES = ("ant", "bee", "cow")


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path) -> Path:
    for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = root / NAMES[label] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root


def write_parquet(path: Path, rows: slice = slice(None), names: tuple[str, ...] | None = NAMES, **columns: Any) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(image), "path": None} for image in IMAGES[rows]]
    data = {"image": images, "label": LABELS[rows].tolist()} | columns
    table = pa.table({k: v for k, v in data.items() if v is not None})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return path


class Pairs:
    """A map-style data set, as torch.utils.data.Dataset asks for."""

    classes = NAMES

    def __init__(self, convert: Any = Image.fromarray) -> None:
        self.convert = convert

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.convert(IMAGES[index]), int(LABELS[index])


def check(data: ImageData, names: tuple[str, ...] = NAMES, order: np.ndarray | None = None) -> None:
    order = np.arange(12) if order is None else order
    assert data.class_names == names
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert np.array_equal(data.labels, LABELS[order])
    assert data.array is not None
    assert np.array_equal(data.array, IMAGES[order])
    assert data.preprocess == Preprocess(height=20, width=20, channels=3)
    assert data.corrupt == ()
