"""Every mistake in what is given as data gets one clear sentence before any training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.data import load
from guard.errors import DataError, MissingDataError
from tests.guard.data.twelve_images import IMAGES, LABELS, NAMES, png, write_folder, write_parquet


@pytest.mark.parametrize("path", ["nothing", "./nothing/here", "/nothing/here.parquet", "a b/c"])
def test_missing_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match=r"no such file or folder '.*accepted: a folder with one sub-folder"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(Path(path))


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    from guard.data.forms import hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(MissingDataError, match=r"no such file or folder 'some/thing'.*the hub cannot be reached.*"):
        load("some/thing")


def test_folder_mistakes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither sub-folders nor images; labelled images need one sub-folder per cl"):
        load(tmp_path / "empty")
    with pytest.raises(DataError, match="holds no images"):
        load(tmp_path / "empty", labelled=False)
    write_folder(tmp_path / "full")
    with pytest.raises(DataError, match="4 images but no sub-folders"):
        load(tmp_path / "full" / "ant")
    (tmp_path / "full" / "stray.png").write_bytes(png(IMAGES[0]))
    assert len(load(tmp_path / "full")) == 12
    assert "1 images lie directly in" in caplog.text
    (tmp_path / "full" / "dodo").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dodo holds no images"):
        load(tmp_path / "full")
    write_folder(tmp_path / "splits" / "train")
    write_folder(tmp_path / "splits" / "test")
    with pytest.raises(DataError, match=r"looks like splits, not classes .* give one of them, e\.g\. .*train"):
        load(tmp_path / "splits")
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "a.png").write_bytes(png(IMAGES[0]))
    with pytest.raises(DataError, match=r"has 1 class \(only\); a classifier needs at least two"):
        load(tmp_path / "one")
    (tmp_path / "file.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="single file that is not Parquet"):
        load(tmp_path / "file.zip")


def test_parquet_mistakes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "mixed" / "train.parquet")
    write_parquet(tmp_path / "mixed" / "test.parquet")
    with pytest.raises(DataError, match=r"holds several splits \(test, train\)"):
        load(tmp_path / "mixed")
    write_parquet(tmp_path / "other" / "a.parquet")
    write_parquet(tmp_path / "other" / "b.parquet", names=("x", "y", "z"))
    with pytest.raises(DataError, match=r"b\.parquet has other columns or class names"):
        load(tmp_path / "other" / "*.parquet")
    (tmp_path / "not.parquet").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"not\.parquet is not a Parquet file"):
        load(tmp_path / "not.parquet")
    with pytest.raises(DataError, match=r"unknown label 2 at row 2 of .* \(4 such\); accepted: 0\.\.1"):
        load(write_parquet(tmp_path / "c.parquet", names=("ant", "bee")))
    with pytest.raises(DataError, match=r"2 rows of .* have no label"):
        load(write_parquet(tmp_path / "d.parquet", label=[*LABELS[:10].tolist(), None, None]))
    with pytest.raises(DataError, match=r"label 0\.5 at row 0 of .* is not a class"):
        load(write_parquet(tmp_path / "e.parquet", names=None, label=[0.5, *LABELS[1:].tolist()]))
    with pytest.raises(DataError, match="no usable image of class 'dodo'"):
        load(write_parquet(tmp_path / "f.parquet", names=(*NAMES, "dodo")))
    assert len(load(tmp_path / "f.parquet", all_classes=False)) == 12


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES, LABELS[:5]), r"12 images but labels of shape \(5,\)"),
        ((IMAGES, LABELS - 1), "unknown label -1 at row 0"),
        ((IMAGES, LABELS + 0.5), r"label 0\.5 at row 0 of arrays is not a class \(12 such\)"),
        ((IMAGES, [float("nan"), *LABELS[1:].tolist()]), "label nan at row 0 of arrays is not a class"),
        ((IMAGES, ["ant", None] * 6), "the label at row 1 of arrays is None"),
        ((IMAGES, ["ant", float("nan")] * 6), "the label at row 1 of arrays is nan"),
        ((IMAGES, ["ant", 1] * 6), "the label at row 1 of arrays is 1, others are text; give names, or integers"),
        ((IMAGES, [[1, 0, 0]] * 12), r"labels\.argmax\(1\) of one-hot rows"),
        ((IMAGES, ["ant", " "] * 6), "the label at row 1 of arrays is empty"),
        ((IMAGES, np.eye(3)[LABELS]), r"labels of shape \(12, 3\).*labels\.argmax\(1\) of one-hot rows"),
        ((IMAGES, np.array(["2026-01-01"] * 12, "datetime64[D]")), "must be integers 0, 1, 2 ... or names"),
        ((IMAGES, LABELS * 10**12), "unknown label 1000000000000 at row 1"),
        ((IMAGES, LABELS * 2), "no usable image of class '1', '3'"),
        ((IMAGES, LABELS * 0), "at least two"),
        ((IMAGES / np.float32(255), LABELS), r"must be uint8 .* got float32; for floats in 0\.\.1"),
        ((IMAGES.transpose(0, 3, 1, 2), LABELS), r"transpose\(0, 2, 3, 1\)"),
        ((IMAGES[:0], LABELS[:0]), "holds no images"),
        ((IMAGES[:, :0], LABELS), "no pixels"),
        (([IMAGES[0], IMAGES[1][..., 0]], [0, 1]), "image 1 of images has 1 channels where earlier ones have 3"),
        (IMAGES, r"labelled images are needed.*pair \(images, labels\)"),
        ({"image": IMAGES}, "cannot read images from dict; accepted: a folder"),
        (7, "cannot read images from int"),
    ],
)
def test_array_mistakes(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(data)


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """A folder is loaded without torch, pyarrow, datasets or scikit-learn."""
    write_folder(tmp_path)
    script = (
        "import sys\nfrom guard.data import load\n"
        f"assert len(load({str(tmp_path)!r})) == 12\n"
        "heavy = {'torch', 'pyarrow', 'datasets', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=60)


@pytest.mark.parametrize("names", [["cat", "dog"], [0, 1]])
def test_an_item_that_cannot_be_read_is_skipped_whatever_its_labels_are(
    names: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Listed:
        def __len__(self) -> int:
            return 300

        def __getitem__(self, row: int) -> tuple[Any, Any]:
            if row == 7:
                raise OSError("broken")
            return np.full((8, 8, 3), row % 256, np.uint8), names[row % 2]

    data = load(Listed())
    assert len(data) == 299
    assert 7 not in data.rows
    assert data.class_names == tuple(map(str, names))
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, data.rows % 2)


@pytest.mark.parametrize(("column", "labelled"), [("image", False), ("image", True), ("label", True)])
@pytest.mark.parametrize("text", [True, False])
def test_a_damaged_page_of_parquet_is_named(column: str, labelled: bool, text: bool, tmp_path: Path) -> None:
    """The footer is whole, so that the file opens."""
    pq = pytest.importorskip("pyarrow.parquet")
    more: Any = {"label": [NAMES[label] for label in LABELS], "names": None} if text else {}
    path = write_parquet(tmp_path / "t.parquet", **more)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    held = bytearray(path.read_bytes())
    held[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(held)
    with pytest.raises(DataError, match=r"t\.parquet is damaged, or cannot be read \(.*; write or copy it again"):
        load(path, labelled=labelled)


def test_two_stars_beside_other_text_are_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no pattern of files .*; use one star: data/train-\*\.parquet"):
        load(tmp_path / "**.parquet")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.timeout(60)
def test_a_link_to_a_pipe_is_a_corrupt_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "insects")
    os.mkfifo(tmp_path / "pipe")
    (root / "ant" / "pipe.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"1 of 13 images .* is a pipe, a socket or a device"):
        load(root)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_a_tensor_of_grey_images_has_no_channels(count: int, labelled: bool) -> None:
    torch = pytest.importorskip("torch")
    images = torch.randint(0, 256, (count, 28, 20), dtype=torch.uint8)
    data = load(
        (images, [0] * count) if labelled else images, labelled=labelled, all_classes=False, image_size=(28, 20)
    )
    assert data.array is not None
    assert np.array_equal(data.array[..., 0], images.numpy())
