"""Copies of an image stay on its side of every split, so that nothing is measured on what was trained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.data import load, split
from guard.data.copies import copies, originals, relabelled
from guard.data.held_out import Draw, Splits
from guard.data.image_data import ImageData
from guard.data.test_images import calibration_images, id_test_images
from guard.errors import CalibrationError, DataError
from tests.guard.data.test_held_out import made_from
from tests.guard.data.twelve_images import png

RNG = np.random.default_rng(0)


def three_times(n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """`n` images, each three times, in a mixed order."""
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(n), 3))
    images = np.random.default_rng(2).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return images[order], order % classes


def test_originals_against_a_slow_search() -> None:
    digests = RNG.integers(0, 20, 100).astype(np.uint64)
    slow = [next(j for j in range(100) if digests[j] == digests[i]) for i in range(100)]
    assert originals(digests).tolist() == slow
    assert copies(digests) == 100 - len(set(digests.tolist()))
    labels = RNG.integers(0, 2, 100)
    rows, first = relabelled(digests, labels)
    assert rows.tolist() == [i for i in range(100) if labels[i] != labels[slow[i]]]
    assert first.tolist() == [slow[i] for i in rows]


@pytest.mark.parametrize("seed", range(10))
def test_properties(seed: int) -> None:
    """Disjoint, complete, repeatable by its counts, never above them, and no image on two sides."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 200, 400)
    first = originals(group.astype(np.uint64))
    labels = rng.integers(0, 4, 200)[group]
    labels[rng.integers(0, 400, 5)] = 0  # copies with another label stay together too
    asked: dict[str, Any] = {"calibration": int(rng.integers(0, 90)), "test": int(rng.integers(0, 90))}
    parts = split(labels, seed=seed, originals=first, **asked)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(400))
    sides = [set(group[rows].tolist()) for rows in parts.values()]
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
    assert all(asked[name] - 3 <= len(parts[name]) <= asked[name] for name in asked)
    again = split(labels, seed=seed, originals=first, **{name: len(parts[name]) for name in asked})
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    alone = split(labels, seed=seed, originals=first, calibration=0, test=asked["test"])
    assert np.array_equal(alone["test"], parts["test"])
    assert set(labels[first[parts["train"]]]) == set(labels[first])


def test_without_copies_the_split_is_as_it_was() -> None:
    labels = RNG.integers(0, 5, 300)
    before = split(labels, seed=3, calibration=40, test=0.2)
    now = split(labels, seed=3, calibration=40, test=0.2, originals=np.arange(300))
    assert all(np.array_equal(before[name], now[name]) for name in before)


def test_classes_are_held_out_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [100, 200, 700])
    first = np.arange(1000)
    first[1::2] = first[::2]  # every image twice
    parts = split(labels, seed=0, calibration=100, test=200, originals=first)
    assert np.bincount(labels[parts["test"]]) == pytest.approx([20, 40, 140], abs=4)


def test_a_large_set_of_equal_images_stays_for_training() -> None:
    labels = np.arange(400) % 2
    first = np.arange(400)
    first[:200] = np.arange(200) % 2
    parts = split(labels, seed=0, calibration=50, test=50, originals=first)
    assert [len(rows) for rows in parts.values()] == [300, 50, 50]
    assert set(range(200)) <= set(parts["train"].tolist())


def test_more_than_the_originals_allow_is_refused() -> None:
    with pytest.raises(DataError, match=r"one image with its copies of each class must stay .* leaves 0"):
        split(np.arange(60) % 3, seed=0, calibration=9, test=9, originals=np.arange(60) % 3)


@pytest.mark.parametrize("form", ["array", "files", "streamed"])
def test_every_form_finds_them(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = three_times(12)
    expected = np.unique(images.reshape(36, -1), axis=0, return_inverse=True)[1].ravel()
    data: Any = (images, labels)
    if form != "array":
        data = ([png(image) for image in images], labels)
    if form == "streamed":
        monkeypatch.setattr("guard.data.pixels.IN_MEMORY_BYTES", 0)
        monkeypatch.setattr("guard.data.pixels.SMALL_SIDE", 0)
    loaded = load(data, image_size=8, workers=0)
    assert (loaded.array is None) == (form == "streamed")
    assert loaded.digests is not None
    same = loaded.digests[:, None] == loaded.digests
    assert np.array_equal(same, expected[:, None] == expected)
    half = loaded.subset(np.arange(0, 36, 2))
    assert np.array_equal(half.digests, loaded.digests[::2])


def drawn(**options: Any) -> tuple[ImageData, Splits]:
    source = load(three_times())
    return source, Splits.draw(source, Draw(0, **options), alpha=0.1)


def test_the_count_is_said_once_and_kept_on_the_card(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ood_guard"):
        _, splits = drawn(calibration=40, test=30)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "120 of 180 images of arrays are copies of another, to the pixel; each copy stays with its original "
        "(39 of 40 for calibration)"
    ]
    assert splits.card().duplicates == 120
    assert splits.card().splits == {"train": 111, "calibration": 39, "test": 30}
    assert len(splits.calibration) == 13  # one of each
    assert copies(splits.calibration.digests) == 0
    assert copies(splits.train.digests) == 74


def test_a_guard_draws_them_again() -> None:
    source, splits = drawn(calibration=40, test=30)
    manifest = made_from(splits, seed=0)
    again = Draw.of_guard(manifest, source)
    assert again == Draw(0, 39, 30)
    assert all(np.array_equal(again.rows(source)[name], splits.rows[name]) for name in splits.rows)
    assert np.array_equal(id_test_images(manifest, source).images.rows, splits.rows["test"])
    assert np.array_equal(calibration_images(manifest, source, labelled=True)[0].rows, splits.calibration.rows)


def test_a_guard_from_before_draws_as_it_did() -> None:
    """Its card does not say how many copies there are."""
    source, splits = drawn(calibration=40, test=30)
    manifest = made_from(splits, seed=0)
    old = manifest.data[0].model_dump(exclude={"duplicates", "not_read"}) | {"splits": {"calibration": 40, "test": 30}}
    manifest = type(manifest).model_validate(manifest.model_dump() | {"data": (old,)})
    again = Draw.of_guard(manifest, source)
    assert again == Draw(0, 40, 30, together=False)
    expected = split(source.labels, seed=0, calibration=40, test=30)
    assert all(np.array_equal(again.rows(source)[name], expected[name]) for name in expected)
    assert Draw(5, None, None).kept(again) == again


@pytest.mark.parametrize("part", ["calibration", "test"])
@pytest.mark.parametrize(("shared", "said"), [(0, ""), (12, "12 of the 40 {} images are among those of arrays too")])
def test_parts_given_apart_that_hold_training_images_are_named(
    part: str, shared: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = RNG.integers(0, 256, (140, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(140) % 2
    apart = slice(100 - shared, 140 - shared)
    own = {part: (images[apart], labels[apart])}
    other = {"calibration": 0.3} if part == "test" else {"test": 0}
    with caplog.at_level(logging.WARNING, "ood_guard"):
        Splits.draw(load((images[:100], labels[:100])), Draw(0, **own, **other), alpha=0.1)
    assert said.format(part) in caplog.text
    assert bool(caplog.text) == bool(said)


def test_copies_of_too_few_images_cannot_hold_a_promise() -> None:
    with pytest.raises(CalibrationError, match="5"):
        Splits.draw(load(three_times(20)), Draw(0, 15, 0), alpha=0.1)


def test_copies_of_another_class_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(image))
    (tmp_path / "b" / "copy.bmp").write_bytes(png(images[0]))
    load(tmp_path, labelled=False)
    assert caplog.text == ""
    load(tmp_path)
    assert "1 images of " in caplog.text
    assert f"(e.g. {tmp_path}/a/0.png and {tmp_path}/b/copy.bmp); correct their labels" in caplog.text
