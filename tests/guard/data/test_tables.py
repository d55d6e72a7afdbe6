"""Tables of images and labels: CSV files, data frames and Parquet, their columns found or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.data import ImageData, load
from guard.errors import DataError, MissingDataError
from tests.guard.data.twelve_images import IMAGES, LABELS, NAMES

TEXTS = [NAMES[label] for label in LABELS]
PATHS = [f"pics/a {row}.png" for row in range(len(IMAGES))]
Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a file beside pics/, with the twelve images in it."""
    (tmp_path / "pics").mkdir()
    for path, image in zip(PATHS, IMAGES, strict=True):
        Image.fromarray(image).save(tmp_path / path)

    def write(text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def lines(separator: str = ",", *columns: list[str], header: str = "") -> str:
    rows = zip(*(columns or (PATHS, TEXTS)), strict=True)
    return header + "\n".join(separator.join(row) for row in rows)


def is_right(data: ImageData) -> bool:
    pixels = np.concatenate([batch for batch, _ in data.batches(5)])
    assert data.labels is not None
    named = [data.class_names[label] for label in data.labels]
    return bool((pixels == IMAGES).all()) and named in (TEXTS, [str(label) for label in LABELS])


@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        (lines(), "labels.csv", "utf-8"),
        (lines(header="path,label\n"), "labels.csv", "utf-8-sig"),
        (lines(header="Image Path, Class\n").replace("\n", "\r\n") + "\r\n\r\n", "labels.CSV", "utf-8"),
        (lines(";", header="filename;category\n"), "labels.csv", "utf-8"),
        (lines("\t", header="path\tlabel\n"), "labels.tsv", "utf-16"),
        (lines(",", TEXTS, PATHS), "labels.csv", "utf-8"),
        (lines(",", PATHS, [str(label) for label in LABELS], header="foto,art\n"), "labels.csv", "utf-8"),
        (lines(",", [f'"{path}"' for path in PATHS], [f'"{t}"' for t in TEXTS]), "labels.txt", "utf-8"),
        (lines(",", list(map(str, range(12))), PATHS, TEXTS, header="id,image,label\n"), "x.csv", "utf-8"),
    ],
    ids=["plain", "bom", "crlf", "semicolon", "tab utf-16", "label first", "own names", "quoted", "more columns"],
)
def test_csv(text: str, name: str, encoding: str, table: Write) -> None:
    assert is_right(load(table(text, name, encoding)))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "holds no lines"),
        ("path,label\n", DataError, "a header and no images"),
        (lines() + ",x\na.png,b", DataError, "row 12 has 3 columns, others 2"),
        (lines() + "\npics/a 0.png,", DataError, "the label at row 12 of .* is empty"),
        (lines(",", ["no/" + path for path in PATHS], TEXTS), MissingDataError, "are not there, e.g. .*relative paths"),
        (
            lines(",", PATHS, TEXTS, TEXTS, header="path,a,b\n"),
            DataError,
            "no label column; .* path, a, b",
        ),
        (lines(",", PATHS, header="path\n"), DataError, "no label column"),
        ("\0\1,", DataError, "is not text"),
        ("path,path\na.png,b", DataError, "names a column twice"),
    ],
)
def test_csv_mistakes(text: str, error: type[Exception], message: str, table: Write) -> None:
    with pytest.raises(error, match=message) as caught:
        load(table(text))
    assert len(str(caught.value)) < 400


def test_csv_without_labels(table: Write) -> None:
    assert len(load(table("\n".join(["path", *PATHS])), labelled=False)) == 12


def test_frames(table: Write) -> None:
    pd = pytest.importorskip("pandas")
    folder = table("").parent
    paths, encoded = [str(folder / path) for path in PATHS], [(folder / path).read_bytes() for path in PATHS]
    for frame in (
        pd.DataFrame({"image": list(IMAGES), "label": TEXTS}, index=range(12, 0, -1)),
        pd.DataFrame({"path": paths, "label": LABELS}),
        pd.DataFrame({"path": paths, "label": pd.Categorical(TEXTS)}),
        pd.DataFrame({"foto": paths, "art": TEXTS}),
        pd.DataFrame({"art": TEXTS, "b": encoded, "weight": np.linspace(0, 1, 12)}),
        pd.DataFrame({"image": [{"bytes": b, "path": None} for b in encoded], "y": LABELS}),
    ):
        assert is_right(load(frame))
    for pair in (
        (IMAGES, pd.Series(TEXTS, index=range(5, 17))),
        (IMAGES, pd.Series(LABELS, dtype="Int64")),
        (pd.Series(paths), pd.Series(TEXTS, dtype="category")),
    ):
        assert is_right(load(pair))
    with pytest.raises(DataError, match=r"no label column; its columns are foto, art, land"):
        load(pd.DataFrame({"foto": paths, "art": TEXTS, "land": TEXTS}))
    with pytest.raises(DataError, match="the label at row 11 of frame is nan"):
        load(pd.DataFrame({"image": list(IMAGES), "label": [*TEXTS[:11], None]}))
    with pytest.raises(DataError, match="two columns 'a'"):
        load(pd.DataFrame([[1, 2]], columns=["a", "a"]))


@pytest.mark.parametrize(
    "labels",
    [
        TEXTS,
        np.array(TEXTS),
        np.array(TEXTS, "S"),
        [str(label) for label in LABELS],
        LABELS.astype(float),
        LABELS.astype(np.uint8)[:, None],
        [np.int64(label) for label in LABELS],
        LABELS.astype(object),
    ],
)
def test_labels_of_arrays(labels: Any) -> None:
    assert is_right(load((IMAGES, labels)))
    assert is_right(load((list(IMAGES), labels)))


def test_labels_that_are_true_or_false() -> None:
    data = load((IMAGES, LABELS > 0))
    assert data.class_names == ("0", "1")
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS > 0)


def test_names_as_labels_are_sorted_and_numbers_by_their_value() -> None:
    data = load((IMAGES, [str(label + 9) for label in LABELS]))
    assert data.class_names == ("9", "10", "11")
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS)


def test_parquet_of_names_and_paths(table: Write) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = table("").parent
    encoded = [(folder / path).read_bytes() for path in PATHS]
    for columns in (
        {"path": PATHS, "label": TEXTS},
        {"foto": PATHS, "art": TEXTS},
        {"image": [{"bytes": None, "path": path} for path in PATHS], "art": LABELS},
        {"image": encoded, "label": pa.array(TEXTS).dictionary_encode()},
        {"image": [str(folder / path) for path in PATHS], "label": LABELS.astype(float)},
    ):
        pq.write_table(pa.table(columns), folder / "a.parquet")
        assert is_right(load(folder / "a.parquet"))


def test_names_in_a_data_set_with_classes() -> None:
    class Pairs:
        classes = {"bee": 1, "ant": 0, "cow": 2}

        def __len__(self) -> int:
            return 12

        def __getitem__(self, row: int) -> tuple[np.ndarray, str]:
            return IMAGES[row], ["ant", "bee", "cow"][LABELS[row]]

    data = load(Pairs())
    assert data.class_names == ("ant", "bee", "cow")
    np.testing.assert_array_equal(data.labels, LABELS)
