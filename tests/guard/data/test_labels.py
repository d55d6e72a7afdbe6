"""Labels as text, wherever they come from: whole numbers are integers, and missing ones are refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.data import load
from guard.data.labels import labels_and_names
from guard.errors import DataError
from tests.guard.data.twelve_images import IMAGES, png, write_parquet

Texts = list[str]


def as_arrays(texts: Texts, folder: Path) -> Any:
    return IMAGES, texts


def as_csv(texts: Texts, folder: Path) -> Any:
    for row, image in enumerate(IMAGES):
        (folder / f"{row}.png").write_bytes(png(image))
    (folder / "labels.csv").write_text("\n".join(f"{row}.png,{text}" for row, text in enumerate(texts)))
    return folder / "labels.csv"


def as_parquet(texts: Texts, folder: Path) -> Any:
    return write_parquet(folder / "t.parquet", names=None, label=texts)


def as_tar(texts: Texts, folder: Path) -> Any:
    with tarfile.open(folder / "t.tar", "w") as tar:
        for row, text in enumerate(texts):
            for ending, held in (("png", png(IMAGES[row])), ("cls", text.encode())):
                member = tarfile.TarInfo(f"{row:02d}.{ending}")
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    return folder / "t.tar"


forms = pytest.mark.parametrize("form", [as_arrays, as_csv, as_parquet, as_tar])


@forms
@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["0.0", "1.0", "2.0"] * 4, ("0", "1", "2")),
        (["0", "1.0", "2.00"] * 4, ("0", "1", "2")),
        (["9.0", "10.0", "11.0"] * 4, ("9", "10", "11")),
        (["1.0", "cat", "dog"] * 4, ("1.0", "cat", "dog")),
        (["007", "1.5x", "a-1"] * 4, ("007", "1.5x", "a-1")),
    ],
)
def test_whole_numbers_are_integers(
    form: Callable[[Texts, Path], Any], texts: Texts, names: tuple[str, ...], tmp_path: Path
) -> None:
    data = load(form(texts, tmp_path))
    assert data.class_names == names
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2] * 4


@forms
@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["0", "1", "-1"] * 4, "unknown label -1 at row 2"),
        (["0.0", "1.0", "-1.0"] * 4, "unknown label -1 at row 2"),
        (["0", "nan", "1"] * 4, "the label at row 1 of .* is 'nan', which is how a missing one is written"),
        (["cat", "dog", "NaN"] * 4, "the label at row 2 of .* is 'NaN'"),
        (["0", "1.5", "1"] * 4, r"label 1\.5 at row 1 of .* is not a class"),
    ],
)
def test_what_is_no_class_is_refused(
    form: Callable[[Texts, Path], Any], texts: Texts, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        load(form(texts, tmp_path))


def test_whole_numbers_are_indices_of_names_that_are_known() -> None:
    labels, names = labels_and_names(["0.0", "2.0"], ("a", "b", "c"), 2, "mine")
    assert (labels.tolist(), names) == ([0, 2], ("a", "b", "c"))
    labels, _ = labels_and_names(["1.0", "nan"], ("nan", "1.0"), 2, "mine")  # they are its names
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan")])
@pytest.mark.parametrize("others", [(0, 1), ("a", "b"), (0.0, 1.0)])
def test_the_row_of_a_missing_label_is_named(missing: Any, others: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"at row 1 of mine is (None|nan|not a class)|label nan at row 1 of mine"):
        labels_and_names([others[0], missing, others[1]], None, 3, "mine")
