"""Every form that `load` accepts gives the same images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.data import load
from guard.data.fingerprint import sizes_as_bytes
from guard.data.forms.arrays import contents
from guard.errors import DataError
from tests.guard.data.twelve_images import IMAGES, LABELS, NAMES, Pairs, check, png, write_folder, write_parquet


def test_folder(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "insects"))
    check(data, order=np.argsort(LABELS, kind="stable"))
    assert data.name == "insects"


def test_folder_details(tmp_path: Path) -> None:
    """Hidden and other files are left out, nesting is walked, suffixes do not decide what a file holds."""
    root = write_folder(tmp_path)
    (root / "ant" / "notes.txt").write_text("x")
    (root / "ant" / "Thumbs.db").write_bytes(b"x")
    (root / "ant" / ".hidden.png").write_bytes(b"x")
    (root / "ant" / "LICENSE").write_text("no suffix, no image")
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "ant" / "deeper" / "still").mkdir(parents=True)
    (root / "ant" / "deeper" / "still" / "UPPER.JPG").write_bytes(png(IMAGES[0]))  # a PNG
    (root / "ant" / "deeper" / "noname").write_bytes(png(IMAGES[1]))
    os.symlink(root / "ant", root / "ant" / "loop")
    data = load(root)
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [6, 4, 4]
    assert data.array is not None
    assert np.array_equal(data.array[4], IMAGES[1])  # sorted by path: 00, 03, 06, 09, deeper/noname, deeper/still
    assert np.array_equal(data.array[5], IMAGES[0])


def test_unlabelled_folder_takes_any_nesting(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "b")
    (tmp_path / "top.png").write_bytes(png(IMAGES[0]))
    data = load(tmp_path, labelled=False)
    assert len(data) == 13
    assert data.labels is None
    assert data.class_names == ()
    assert [labels for _, labels in data.batches(5)] == [None, None, None]


def test_parquet_file_and_shards(tmp_path: Path) -> None:
    data = load(write_parquet(tmp_path / "set" / "train.parquet"))
    check(data)
    assert data.name == "set/train"
    shards = tmp_path / "shards" / "data"
    write_parquet(shards / "train-00001-of-00002.parquet", slice(7, None))
    write_parquet(shards / "train-00000-of-00002.parquet", slice(0, 7))
    for path in (tmp_path / "shards", f"{shards}/train-*.parquet"):
        check(load(path))
    assert load(tmp_path / "shards").fingerprint == data.fingerprint


def test_parquet_without_names_or_labels(tmp_path: Path) -> None:
    check(load(write_parquet(tmp_path / "a.parquet", names=None)), names=("0", "1", "2"))
    bare = load(write_parquet(tmp_path / "b.parquet", names=None, label=None), labelled=False)
    assert len(bare) == 12
    flat = write_parquet(tmp_path / "c.parquet", names=None, image=[png(i) for i in IMAGES])
    check(load(flat), names=("0", "1", "2"))


def test_parquet_with_paths_beside_it(tmp_path: Path) -> None:
    for i, image in enumerate(IMAGES):
        (tmp_path / f"{i}.png").write_bytes(png(image))
    rows = [{"bytes": None, "path": f"{i}.png"} for i in range(12)]
    check(load(write_parquet(tmp_path / "a.parquet", image=rows)))


def test_hugging_face_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(NAMES))})
    columns = {"img": [{"bytes": png(i), "path": None} for i in IMAGES], "fine_label": LABELS.tolist()}
    ds = datasets.Dataset.from_dict(columns, features=features)
    check(load(ds))
    order = np.array([3, 1, 2, 0, 11, 4, 5])
    check(load(ds.select(order)), order=order)
    check(load(datasets.DatasetDict(train=ds)))
    with pytest.raises(DataError, match="splits a, b; choose one"):
        load(datasets.DatasetDict(a=ds, b=ds))
    with pytest.raises(DataError, match="has no image column; its columns are fine_label"):
        load(ds.remove_columns("img"))
    with pytest.raises(DataError, match="has no label column; its columns are img; accepted names: label, labels"):
        load(ds.remove_columns("fine_label"))
    assert len(load(ds.remove_columns("fine_label"), labelled=False)) == 12
    with pytest.raises(DataError, match="can only be streamed once"):
        load(ds.to_iterable_dataset())


@pytest.mark.parametrize("form", ["pil", "array", "chw tensor", "hwc tensor"])
def test_torch_dataset(form: str) -> None:
    torch = pytest.importorskip("torch")
    convert = {
        "pil": Image.fromarray,
        "array": np.asarray,
        "chw tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1),
        "hwc tensor": torch.from_numpy,
    }[form]
    check(load(Pairs(convert)))
    subset = torch.utils.data.Subset(Pairs(convert), [0, 4, 8])
    check(load(subset), order=np.array([0, 4, 8]))


def test_torch_dataset_mistakes() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DataError, match=r"float32 tensor; drop ToTensor\(\)"):
        load(Pairs(lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255))
    with pytest.raises(DataError, match="image 1 of Pairs has 1 channels where earlier ones have 3"):
        load(Pairs(lambda image: image if image is not IMAGES[1] and (image != IMAGES[1]).any() else image[..., 0]))

    class Endless:
        def __iter__(self) -> Any:
            return iter(Pairs())

    with pytest.raises(DataError, match="Endless can only be iterated"):
        load(Endless())


@pytest.mark.parametrize("tensors", [False, True])
def test_array_pair(tensors: bool) -> None:
    images: Any = IMAGES
    labels: Any = LABELS
    if tensors:
        torch = pytest.importorskip("torch")
        images, labels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS)
    check(load((images, labels)), names=("0", "1", "2"))
    check(load((images, labels.tolist())), names=("0", "1", "2"))
    check(load(([Image.fromarray(i) for i in IMAGES], labels)), names=("0", "1", "2"))
    assert load(images, labelled=False).labels is None
    assert load((images, labels), labelled=False).labels is None


def test_grey_arrays_are_repeated_or_kept() -> None:
    grey = IMAGES[..., 0]
    three, one = load((grey, LABELS)), load((grey[..., None], LABELS), channels=1)
    assert three.array is not None
    assert one.array is not None
    assert np.array_equal(three.array, np.repeat(grey[..., None], 3, axis=3))
    assert np.array_equal(one.array, grey[..., None])
    assert load((IMAGES, LABELS), channels=1).preprocess.channels == 1


def test_lists_of_anything(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(IMAGES[0]))
    data = load([tmp_path / "a.png", png(IMAGES[1]), Image.fromarray(IMAGES[2]), IMAGES[3]], labelled=False)
    assert data.array is not None
    assert np.array_equal(data.array, IMAGES[:4])


def test_digits() -> None:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    data = load("digits")
    assert data.array is not None
    assert data.array.shape == (1797, 32, 32, 3)
    assert np.array_equal(data.labels, bunch.target)
    assert data.class_names == tuple("0123456789")
    # each enlarged image, averaged over 4 x 4 pixels, is the 8 x 8 original in other units
    small = data.array[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) * 16 / 255
    assert np.abs(small - bunch.images).mean() < 1  # of 16 grey levels; bicubic rings a little
    assert np.corrcoef(small.ravel(), bunch.images.ravel())[0, 1] > 0.99
    known, unknown = load("digits:0-7"), load("digits:8-9")
    assert known.class_names == tuple("01234567")
    assert unknown.class_names == ("8", "9")
    assert len(known) + len(unknown) == 1797
    assert np.array_equal(unknown.labels, bunch.target[bunch.target >= 8] - 8)
    assert load("digits:9,3").class_names == ("9", "3")
    for bad in ("digits:", "digits:0-x", "digits:12", "digits:7-3"):
        with pytest.raises(DataError, match="accepted: 'digits', 'digits:0-7'"):
            load(bad)
    with pytest.raises(DataError, match="at least two"):
        load("digits:4")


def hub_set(images: list[Any], feature: Any = None) -> Any:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({"image": feature or datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": images, "label": LABELS[: len(images)].tolist()}, features=features)


@pytest.mark.parametrize("form", ["parquet", "hub"])
def test_a_fingerprint_is_of_the_images_that_paths_name(form: str, tmp_path: Path) -> None:
    """Wherever they lie, and however their paths are written; another image is another set."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def fingerprint(folder: Path, *, relative: bool) -> str:
        paths = [str(path.relative_to(folder) if relative else path) for path in sorted(folder.glob("*.png"))]
        if form == "hub":
            return load(hub_set([str(path) for path in sorted(folder.glob("*.png"))])).fingerprint
        pq.write_table(pa.table({"image": paths, "label": LABELS.tolist()}), folder / "t.parquet")
        return load(folder / "t.parquet").fingerprint

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i, image in enumerate(IMAGES):
            (tmp_path / name / f"{i:02d}.png").write_bytes(png(image))
    one = fingerprint(tmp_path / "a", relative=True)
    assert one == fingerprint(tmp_path / "a", relative=False) == fingerprint(tmp_path / "b", relative=True)
    (tmp_path / "b" / "03.png").write_bytes(png(255 - IMAGES[3]))
    assert one != fingerprint(tmp_path / "b", relative=True)


def test_a_large_set_of_paths_is_told_by_sizes_and_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"1234")
    (tmp_path / "b.bin").write_bytes(b"567")
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    assert list(contents([b"x", *paths])) == [b"x", b"1234", b"567"]
    monkeypatch.setattr("guard.data.forms.arrays.FULL_CONTENT_BYTES", 6)
    assert list(contents(paths)) == [sizes_as_bytes([4, 3]), b"1234", b"567"]


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("float32", IMAGES / 255, r"float64 with 0\.0\.\.1\.0; for floats in 0\.\.1: \(images \* 255\)"),
        ("int32", IMAGES.astype(np.int32) * 2, r"int64 with 0\.\.510"),
        ("int32", IMAGES.astype(np.int32) - 9, r"int64 with -9\.\."),
    ],
)
def test_numbers_that_are_no_pixels_are_refused_as_of_arrays(dtype: str, values: np.ndarray, said: str) -> None:
    datasets = pytest.importorskip("datasets")
    shape = datasets.Array3D((20, 20, 3), dtype)
    with pytest.raises(DataError, match="images must be uint8 with values 0..255, got " + said):
        load(hub_set([*values.astype(dtype)], shape))
    check(load(hub_set([*IMAGES], datasets.Array3D((20, 20, 3), "uint8"))))
