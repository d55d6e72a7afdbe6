"""Decoded once or streamed, the pixels are the same; corrupt images are named, counted and skipped."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from guard.data import load
from guard.data import pixels as pixels_module
from guard.errors import ConfigError, DataError
from guard.manifest import Preprocess
from tests.guard.data import many_images
from tests.guard.data.many_images import (
    CONFIG,
    ENCODED,
    EXPECTED,
    FORMS,
    LABELS,
    RNG,
    N,
    jpeg,
    open_form,
    write_folder,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_is_decoded_once(form: str, workers: int, tmp_path: Path, streaming: None) -> None:
    """Any order, with repeats, in batches that do not divide it: the same pixels as `to_input` on each image."""
    data, which = open_form(form, tmp_path, workers=workers, cache_dir=tmp_path / "scratch")
    assert data.array is None
    order = RNG.integers(0, N, 200)
    batches = list(data.batches(32, order))
    assert [len(images) for images, _ in batches] == [32] * 6 + [8]
    assert np.array_equal(np.concatenate([images for images, _ in batches]), EXPECTED[which[order]])
    assert np.array_equal(np.concatenate([labels for _, labels in batches]), LABELS[which[order]])
    assert len(list(data.batches(32, order, drop_last=True))) == 6
    assert np.array_equal(data.take(np.array([7, 3, 7])), EXPECTED[which[[7, 3, 7]]])
    assert data.take(np.array([], int)).shape == (0, 72, 72, 3)
    part = data.subset(np.array([10, 149, 4])).subset(np.array([2, 0]))
    assert np.array_equal(part.take(np.arange(2)), EXPECTED[which[[4, 10]]])
    assert next(part.batches(2))[0].shape == (2, 72, 72, 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_in_memory(form: str, workers: int, tmp_path: Path) -> None:
    data, which = open_form(form, tmp_path, workers=workers)
    assert data.array is not None
    assert np.array_equal(data.array, EXPECTED[which])
    order = RNG.permutation(N)[:70]
    assert np.array_equal(np.concatenate([b for b, _ in data.batches(16, order)]), EXPECTED[which[order]])


def test_forms_of_the_same_images_share_a_fingerprint(tmp_path: Path) -> None:
    """It is about content: not the path, not the input size, not how much of it is used."""
    folder, _ = open_form("folder", tmp_path)
    (tmp_path / "moved").mkdir()
    moved = load(write_folder(tmp_path / "moved" / "elsewhere"), image_size=16)
    assert folder.fingerprint == moved.fingerprint
    parquet, _ = open_form("parquet", tmp_path)
    assert parquet.fingerprint == load(tmp_path / "all.parquet", max_images=5).fingerprint
    assert parquet.fingerprint == parquet.subset(np.array([3])).fingerprint
    assert parquet.fingerprint != folder.fingerprint  # another order
    assert parquet.fingerprint != load(tmp_path / "all.parquet", labelled=False).fingerprint
    assert len(parquet.fingerprint) == 16
    pairs, _ = open_form("list", tmp_path)
    swapped = [ENCODED[1], ENCODED[0], *ENCODED[2:]]
    assert pairs.fingerprint != load((swapped, LABELS), preprocess=CONFIG).fingerprint
    assert pairs.fingerprint != load((ENCODED, LABELS[::-1].copy()), preprocess=CONFIG).fingerprint
    (tmp_path / "folder" / "class0").rename(tmp_path / "folder" / "class00")
    assert folder.fingerprint != load(tmp_path / "folder", preprocess=CONFIG).fingerprint


def test_fingerprint_of_large_sets_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("folders", "parquet", "arrays", "hub"):
        monkeypatch.setattr(f"guard.data.forms.{module}.FULL_CONTENT_BYTES", 0)
    for form in ("folder", "parquet"):
        assert open_form(form, tmp_path)[0].fingerprint == open_form(form, tmp_path)[0].fingerprint
    array = EXPECTED.copy()
    before = load((array, LABELS)).fingerprint
    array[0, 0, 0, 0] ^= 1
    assert load((array, LABELS)).fingerprint != before


def test_memory_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "MEMORY_MAP_BYTES", 1000)
    data, which = open_form("folder", tmp_path, cache_dir=tmp_path / "scratch")
    assert data.array is not None
    assert isinstance(data.array.base, np.memmap) or isinstance(data.array, np.memmap)
    assert np.array_equal(data.array, EXPECTED[which])
    assert list((tmp_path / "scratch").iterdir()) == []  # the file has no name: nothing to clean up


def test_no_room_for_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "MEMORY_MAP_BYTES", 1000)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot reserve .* give cache_dir= a folder with room"):
        open_form("folder", tmp_path, cache_dir=tmp_path / "file")


# ---------------------------------------------------------------------------------------------------------- corrupt


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stream", [False, True])
def test_one_corrupt_image_is_named_and_skipped(
    form: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if stream:
        monkeypatch.setattr(pixels_module, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr("guard.data.forms.torch_dataset._KEEP_BYTES", 0)
    damaged = list(ENCODED)
    damaged[42] = damaged[42][:300]
    monkeypatch.setattr(many_images, "ENCODED", damaged)
    with caplog.at_level(logging.WARNING, "ood_guard"):
        data, which = open_form(form, tmp_path, workers=2)
    assert len(data) == N - 1
    left = which[which != 42]
    assert np.array_equal(np.concatenate([b for b, _ in data.batches(64)]), EXPECTED[left])
    assert np.array_equal(data.labels, LABELS[left])
    assert np.array_equal(which[data.rows], left)
    assert len(data.corrupt) == 1
    place = {"folder": "042.jpg", "parquet": "row 42 of", "list": "image 42", "torch": "item 42 of Pairs"}[form]
    assert place in data.corrupt[0]
    assert place in caplog.text
    assert data.card({"train": 149}).model_dump() == {
        "name": data.name, "fingerprint": data.fingerprint, "images": 149, "corrupt": 1, "splits": {"train": 149},
        "seed": None, "not_read": {}, "duplicates": 0,
        "class_names": (), "settled": 0, "given_as": (), "pixels": "",
    }  # fmt: skip


@pytest.mark.parametrize(("bad", "listed"), [(2, 2), (30, 10)])
def test_more_than_one_percent_stops(bad: int, listed: int, tmp_path: Path) -> None:
    write_folder(tmp_path)
    for i in range(bad):
        (tmp_path / "class0" / f"{i * 3:03d}.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"cannot be read; up to 1 % of 150 would be skipped") as caught:
        load(tmp_path, preprocess=CONFIG, workers=0)
    assert str(caught.value).count(": not an image") == listed


def test_a_class_that_loses_all_its_images(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(120)]
    items = [jpeg(image) for image in images[:-1]] + [b"broken"]
    labels = [0] * 60 + [1] * 59 + [2]
    with pytest.raises(DataError, match="no usable image of class '2'"):
        load((items, labels))


def test_a_file_that_vanishes_while_in_use(tmp_path: Path, streaming: None) -> None:
    data, _ = open_form("folder", tmp_path, workers=2)
    (tmp_path / "folder" / "class0" / "003.jpg").unlink()
    with pytest.raises(DataError, match=r"003\.jpg; it was readable when the data was loaded"):
        list(data.batches(8))


# --------------------------------------------------------------------------------------------------------- options


def test_own_size(tmp_path: Path) -> None:
    small = RNG.integers(0, 256, (6, 28, 40, 3), np.uint8)
    labels = [0, 1] * 3
    assert load((list(map(jpeg, small)), labels)).preprocess == Preprocess(height=28, width=40)
    assert load((small, labels), image_size=16).preprocess == Preprocess(height=16, width=16)
    mixed = [jpeg(small[0][:20]), *map(jpeg, small[1:])]
    assert load((mixed, labels)).preprocess == Preprocess(height=224, width=224, resize="crop")
    large = RNG.integers(0, 256, (6, 65, 65, 3), np.uint8)
    assert load((list(map(jpeg, large)), labels), channels=1).preprocess == Preprocess(
        height=224, width=224, channels=1
    )


def test_max_images_takes_the_first(tmp_path: Path) -> None:
    data, _ = open_form("parquet", tmp_path, max_images=50)
    assert data.rows.tolist() == list(range(50))
    assert data.array is not None
    assert np.array_equal(data.array, EXPECTED[:50])
    with pytest.raises(ConfigError, match="max_images"):
        open_form("list", tmp_path, max_images=0)


def test_loaded_data_is_taken_as_it_is(tmp_path: Path) -> None:
    data, _ = open_form("list", tmp_path)
    assert load(data) is data
    assert load(data, preprocess=CONFIG) is data
    with pytest.raises(DataError, match="load it again from its source"):
        load(data, preprocess=Preprocess(height=8, width=8))
    with pytest.raises(DataError, match="was loaded without labels"):
        load(load(ENCODED, labelled=False, image_size=8))


def test_wrong_arguments(tmp_path: Path) -> None:
    data, _ = open_form("list", tmp_path)
    with pytest.raises(ConfigError, match="batch_size"):
        data.batches(0).__next__()
    with pytest.raises(ConfigError, match=r"0\.\.149 .* got 3\.\.150"):
        data.take(np.array([3, 150]))
    with pytest.raises(ConfigError, match="integer array"):
        data.subset(np.array([True, False]))
    with pytest.raises(ConfigError, match="channels"):
        load((ENCODED, LABELS), channels=4)
    with pytest.raises(ConfigError, match="image_size"):
        load((ENCODED, LABELS), image_size=0)
    assert data.array is not None
    with pytest.raises(ValueError, match="read-only"):
        data.array[0] = 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("again", [False, True])
def test_drawn_arrays_keep_their_labels_beside_them(channels: int, again: bool) -> None:
    """Every image of an array is its number: rows, pixels, labels and digests are of the same ones."""
    images = np.arange(60, dtype=np.uint8).repeat(64).reshape(60, 8, 8, 1)
    given: object = (images, np.arange(60) % 4)
    if again:
        given = load(given, channels=channels)  # which is taken as it is, but for the number
    data = load(given, channels=channels, max_images=20, draw=3)
    assert data.array is not None
    np.testing.assert_array_equal(data.array[:, 0, 0, 0], data.rows)
    np.testing.assert_array_equal(data.labels, data.rows % 4)
    assert len(data) == len(set(data.rows.tolist())) == 20
    assert data.rows.max() > 20  # not the first ones
    whole = load((images, np.arange(60) % 4), channels=channels)
    np.testing.assert_array_equal(data.digests, whole.digests[data.rows])
