"""URLs that fsspec opens, with its file system in memory."""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.data import load
from guard.data.forms import open_source
from guard.data.forms.nesting import SplitsError
from guard.data.forms.remote import is_url
from guard.errors import ConfigError, DataError, ImageError, MissingDataError, MissingExtraError
from tests.guard.data.test_tars import samples, write_tar
from tests.guard.data.twelve_images import IMAGES, LABELS, NAMES, png, write_parquet

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket() -> Iterator[Any]:
    """memory://photos: twelve images in a folder per class, and notes.txt."""
    fs = fsspec.filesystem("memory")
    for i, label in enumerate(LABELS):
        fs.pipe(f"/photos/{NAMES[label]}/{i:02d}.png", png(IMAGES[i]))
    fs.pipe("/photos/notes.txt", b"notes")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


ORDER = np.argsort(LABELS, kind="stable")  # by folder


def test_a_folder_is_read_like_one_of_this_machine(bucket: Any) -> None:
    data = load("memory://photos")
    assert data.name == "photos"
    assert data.class_names == NAMES
    assert np.array_equal(data.labels, LABELS[ORDER])
    assert data.array is not None
    assert np.array_equal(data.array, IMAGES[ORDER])
    source = open_source("memory://photos/", labelled=False)
    assert source.key(4) == f"bee/{ORDER[4]:02d}.png"  # type: ignore[attr-defined]
    assert source.not_read == {".txt": 1}  # type: ignore[attr-defined]
    pattern = open_source("memory://photos/*/*.png", labelled=True)
    assert (len(pattern), pattern.class_names) == (12, NAMES)


def test_parquet_and_tar_files_are_found_by_their_endings(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("/tables/a.parquet", write_parquet(tmp_path / "a.parquet").read_bytes())
    bucket.pipe("/tars/a-0.tar", write_tar(tmp_path / "0.tar", samples(range(5))).read_bytes())
    bucket.pipe("/tars/a-1.tar", write_tar(tmp_path / "1.tar", samples(range(5, 12))).read_bytes())
    for url in ("memory://tables/a.parquet", "memory://tables", "memory://tars", "memory://tars/a-*.tar"):
        data = load(url)
        assert data.array is not None
        assert np.array_equal(data.array, IMAGES), url
        assert np.array_equal(data.labels, LABELS), url


def test_an_image_that_cannot_be_fetched_is_an_error_in_its_place(bucket: Any) -> None:
    source = open_source("memory://photos", labelled=False)
    bucket.rm(f"/photos/bee/{ORDER[4]:02d}.png")
    for rows in (np.array([3, 4, 5]), np.array([4])):
        items = source.items(rows)
        assert [isinstance(item, ImageError) for item in items] == (rows == 4).tolist()


def test_the_fingerprint_is_of_names_sizes_and_versions(bucket: Any) -> None:
    before = open_source("memory://photos", labelled=True).fingerprint()
    assert open_source("memory://photos", labelled=True).fingerprint() == before
    name = f"/photos/bee/{ORDER[4]:02d}.png"
    bucket.mv(name, "/photos/bee/other.png")
    renamed = open_source("memory://photos", labelled=True).fingerprint()
    bucket.mv("/photos/bee/other.png", name)
    bucket.pipe(name, png(IMAGES[0, :5]))
    assert len({before, renamed, open_source("memory://photos", labelled=True).fingerprint()}) == 3


def both(bucket: Any, folder: Path, labelled: bool) -> list[Any]:
    """What is said of the folder photos in the bucket, and of its copy on this machine."""
    for path, held in bucket.store.items():
        (folder / path.strip("/")).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.strip("/")).write_bytes(held.getvalue())
    said: list[Any] = []
    for place in ("memory://photos", str(folder / "photos")):
        try:
            source: Any = open_source(place, labelled=labelled)
        except DataError as error:
            said.append(str(error).replace(place, "HERE"))
            continue
        notes = sorted(
            sorted(re.split("[:,;] ", n.replace("/photos", "").replace(str(folder), ""))) for n in source.notes
        )
        keys = [source.key(row) for row in range(len(source))]
        said.append((sorted(keys), source.class_names, dict(source.not_read), notes))
    return said


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ("loose.png",),
        ("ant/._00.png", "ant/.hidden.png", ".cache/x.png", "ant/@eaDir/x.png", "Thumbs.db", "__MACOSX/ant/x.png"),
        ("dog/a.heic", "dog/b.heic"),
        ("ant/a.heic", "ant/b.jpg.txt", "bee/c.svg", "d.psd", "readme"),
        ("empty/notes.txt",),
        ("stray.tar",),
        ("stray.parquet", "preview.png"),
        ("train/a.png", "test/b.png"),
        ("ant/deeper/a.png",),
    ],
)
def test_a_folder_there_is_judged_like_one_here(
    names: tuple[str, ...], labelled: bool, bucket: Any, tmp_path: Path
) -> None:
    for name in names:
        bucket.pipe(f"/photos/{name}", png(IMAGES[0]) if name.endswith(".png") else b"x")
    there, here = both(bucket, tmp_path, labelled)
    assert there == here


@pytest.mark.parametrize("relative", [True, False])
def test_paths_in_a_table_there_are_of_images_there(relative: bool, bucket: Any, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    paths = [f"{'' if relative else '/photos/'}{NAMES[label]}/{i:02d}.png" for i, label in enumerate(LABELS)]
    pq.write_table(pa.table({"path": paths, "label": [NAMES[label] for label in LABELS]}), tmp_path / "t.parquet")
    bucket.pipe("/photos/t.parquet", (tmp_path / "t.parquet").read_bytes())
    data = load("memory://photos/t.parquet")
    assert data.array is not None
    assert np.array_equal(data.array, IMAGES)
    bucket.rm("/photos/ant/00.png")
    (gone,) = open_source("memory://photos/t.parquet", labelled=False).items(np.array([0]))
    assert isinstance(gone, ImageError)
    assert "ant/00.png cannot be fetched" in str(gone)


def test_errors_at_the_top_of_an_archive_are_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("train/a.png", "test/b.png"):
            archive.writestr(name, png(IMAGES[0]))
    with pytest.raises(SplitsError, match=r"looks like splits, not classes \(test, train\); give one of them, e.g. "):
        open_source(f"zip://::{tmp_path}/x.zip", labelled=True)


def test_what_cannot_be_opened_is_one_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDataError, match="nothing is at memory://absent; accepted: a folder"):
        open_source("memory://absent", labelled=False)
    with pytest.raises(ConfigError, match="nonsense://x cannot be opened"):
        open_source("nonsense://x", labelled=False)
    monkeypatch.setattr(type(bucket), "isfile", lambda *_: (_ for _ in ()).throw(PermissionError("Access Denied")))
    with pytest.raises(MissingDataError, match=r"cannot be listed \(Access Denied\); check the address"):
        open_source("memory://photos", labelled=False)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"fsspec, which opens URLs, .*ood-guard\[scan\]"):
        open_source("memory://photos", labelled=False)


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_the_package_of_a_kind_of_url_is_named() -> None:
    with pytest.raises(ConfigError, match="s3://bucket/photos cannot be opened: Install s3fs"):
        open_source("s3://bucket/photos", labelled=False)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://b/c", True),
        ("simplecache::https://a/b.tar", True),
        ("C:/photos", False),
        ("owner/name:train", False),
        ("digits:0-7", False),
        ("a/b://c", False),
    ],
)
def test_what_is_a_url(text: str, wanted: bool) -> None:
    assert is_url(text) == wanted


def test_splits_are_not_taken_for_classes(bucket: Any) -> None:
    """As those of a folder of this machine are not."""
    for i, label in enumerate(LABELS):
        bucket.pipe(f"/split/{'train' if i % 2 else 'test'}/{NAMES[label]}/{i:02d}.png", png(IMAGES[i]))
    with pytest.raises(
        SplitsError, match=r"memory://split looks like splits.*give one of them, e\.g\. memory://split/train"
    ):
        load("memory://split")
    assert load("memory://split/train").class_names == NAMES
    assert len(open_source("memory://split", labelled=False)) == 12  # what is scored has no classes


def test_splits_of_shards_are_not_put_together(bucket: Any, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "a.parquet").read_bytes()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        bucket.pipe(f"/shards/data/{name}.parquet", table)
    for url in ("memory://shards", "memory://shards/data/*.parquet"):
        with pytest.raises(SplitsError, match=r"holds several splits \(test, train\); give one, e\.g\. memory:.*train"):
            load(url)
    for url in ("memory://shards/data/train-00000-of-00001.parquet", "memory://shards/data/train-*.parquet"):
        assert len(load(url)) == 12
    bucket.pipe("/shards/data/.train.parquet", b"half written")
    assert len(load("memory://shards/data/train-*.parquet")) == 12
