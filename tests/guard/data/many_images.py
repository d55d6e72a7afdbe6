"""150 JPEG images of many sizes in three classes, in the forms that are decoded differently."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.data import ImageData, load
from guard.manifest import Preprocess
from guard.preprocess import to_input

RNG = np.random.default_rng(0)
ROOT = Path(__file__).resolve().parents[3]
N = 150


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


ENCODED = [jpeg(RNG.integers(0, 256, (int(h), int(w), 3), np.uint8)) for h, w in RNG.integers(70, 120, (N, 2))]
LABELS = np.arange(N) % 3
CONFIG = Preprocess(height=72, width=72, resize_to=(79, 79))
EXPECTED = np.stack([to_input(image, CONFIG) for image in ENCODED])


def write_folder(root: Path) -> Path:
    for i, image in enumerate(ENCODED):
        path = root / f"class{LABELS[i]}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return root


def write_parquet(path: Path) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [{"bytes": image, "path": None} for image in ENCODED], "label": LABELS})
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["class0", "class1", "class2"]}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), path, row_group_size=40)
    return path


class Pairs:
    classes = ("class0", "class1", "class2")

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.open(io.BytesIO(ENCODED[index])), int(LABELS[index])


def open_form(form: str, tmp_path: Path, **options: Any) -> tuple[ImageData, np.ndarray]:
    """(the data, which of ENCODED each of its images is)."""
    if form == "folder":
        data: Any = write_folder(tmp_path / "folder")
    elif form == "parquet":
        data = write_parquet(tmp_path / "all.parquet")
    elif form == "list":
        data = (ENCODED, LABELS)
    else:
        data = Pairs()
    order = np.argsort(LABELS, kind="stable") if form == "folder" else np.arange(N)
    return load(data, preprocess=CONFIG, **options), order


FORMS = ["folder", "parquet", "list", "torch"]
