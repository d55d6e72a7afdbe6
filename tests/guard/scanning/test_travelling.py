"""A data set of any form travels to another process, as a Ray task gets it, and gives the same images there."""

from __future__ import annotations

import csv
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from guard.data.forms import open_source
from guard.data.forms.arrays import content
from guard.scanning.reading import Reading

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        inside = tmp_path / "images" / f"class_{number % 2}"
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(inside / f"{number}.png")
    return tmp_path / "images"


def parquet(folder: Path) -> Path:
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.rglob("*.png"))]
    pq.write_table(pa.table({"image": images, "label": [0, 1] * (COUNT // 2)}), folder.parent / "images.parquet")
    return folder.parent / "images.parquet"


def tar(folder: Path) -> Path:
    with tarfile.open(folder.parent / "images.tar", "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.add(path, path.name)
    return folder.parent / "images.tar"


def table(folder: Path) -> Path:
    with (folder.parent / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([str(path), path.parent.name] for path in sorted(folder.rglob("*.png")))
    return folder.parent / "images.csv"


FORMS: dict[str, Callable[[Path], object]] = {
    "folder": lambda folder: folder,
    "list": lambda folder: sorted(folder.rglob("*.png")),
    "parquet": parquet,
    "tar": tar,
    "table": table,
    "url of Parquet": lambda folder: parquet(folder).as_uri(),
    "url of tar": lambda folder: tar(folder).as_uri(),
    "url of a folder": lambda folder: folder.as_uri(),
    "arrays": lambda folder: np.stack([np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))]),
}


@pytest.mark.parametrize("form", FORMS)
def test_it_gives_the_same_images_there(form: str, folder: Path) -> None:
    source = Reading(open_source(FORMS[form](folder), labelled=False))
    rows = np.arange(COUNT)
    before = [content(item) for item in source.items(rows)]
    again = pickle.loads(pickle.dumps(source))
    assert [content(item) for item in again.items(rows)] == before
    assert [again.key(row) for row in rows] == [source.key(row) for row in rows]
