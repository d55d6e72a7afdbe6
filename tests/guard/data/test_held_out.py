"""Which images are held out, and that whoever asks again gets the same ones."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from guard.data import load
from guard.data.classes import ClassOrder, class_order
from guard.data.held_out import Draw, Splits
from guard.data.image_data import ImageData
from guard.data.test_images import calibration_images, id_test_images
from guard.errors import CalibrationError, ConfigError, DataError
from guard.manifest import DataCard, Manifest, Normalisation
from tests.conftest import Arrays


@pytest.fixture
def source(four: Arrays) -> ImageData:
    return load(four)


def made_from(splits: Splits, seed: int) -> Manifest:
    """The manifest of a guard that was made from these splits."""
    return Manifest(
        class_names=splits.source.class_names,
        preprocess=splits.source.preprocess,
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3),
        method="plain",
        backbone="wrn10_2",
        head="linear",
        score="energy",
        seed=seed,
        data=splits.cards(),
    )


def test_the_parts_are_those_of_the_rows(source: ImageData, four: Arrays) -> None:
    splits = Splits.draw(source, Draw(3, 40, 0.25), alpha=0.05)
    assert splits.test is not None
    for name, part in (("train", splits.train), ("calibration", splits.calibration), ("test", splits.test)):
        np.testing.assert_array_equal(part.rows, splits.rows[name])
        np.testing.assert_array_equal(part.labels, four[1][splits.rows[name]])
    assert splits.card().splits == {"train": 260, "calibration": 40, "test": 100}


def test_images_of_their_own_leave_the_data_whole(source: ImageData, four: Arrays) -> None:
    own = Draw(0, four[0][:50], (four[0][:30], four[1][:30]))
    assert sorted(own.own()) == ["calibration", "test"]
    splits = Splits.draw(source, own, alpha=0.05)
    assert splits.test is not None
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (400, 50, 30)
    assert splits.calibration.labels is None
    with pytest.raises(DataError, match="labelled images are needed"):
        Splits.draw(source, own, alpha=0.05, labelled_calibration=True)


def test_what_cannot_be_drawn(source: ImageData, four: Arrays) -> None:
    with pytest.raises(ConfigError, match=r"seed must be an integer from 0 to 2\^31 - 1, got 0\.5"):
        Draw(0.5).rows(source)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match=r"alpha=0\.05 needs at least 19"):
        Splits.draw(source, Draw(0, 10, 0), alpha=0.05)
    with pytest.raises(DataError, match="training needs labelled images"):
        Draw(0).rows(load(four[0], labelled=False))


def test_a_guard_draws_again_what_it_was_made_with(source: ImageData) -> None:
    splits = Splits.draw(source, Draw(7, 40, 60), alpha=0.05)
    manifest = made_from(splits, seed=7)
    again = Draw.of_guard(manifest, source)
    assert again == Draw(7, 40, 60)
    for name, rows in again.rows(source).items():
        np.testing.assert_array_equal(rows, splits.rows[name])
    np.testing.assert_array_equal(id_test_images(manifest, source).images.rows, splits.rows["test"])
    images, labels, _ = calibration_images(manifest, source, labelled=True)
    np.testing.assert_array_equal(images.rows, splits.rows["calibration"])
    np.testing.assert_array_equal(labels, splits.calibration.labels)


def test_each_card_has_the_seed_of_its_own_draw(source: ImageData, four: Arrays) -> None:
    """A network that was trained with one seed on other data, and its guard fitted on these with another."""
    first = made_from(Splits.draw(source, Draw(7, 40, 60), alpha=0.05), seed=7)
    other = load((255 - four[0], four[1]))
    splits = Splits.draw(other, Draw(3, 50, 30), alpha=0.05)
    manifest = first.model_copy(update={"data": splits.cards(first)})
    assert Draw.of_guard(manifest, source) == Draw(7, 40, 60)
    assert Draw.of_guard(manifest, other) == Draw(3, 50, 30)
    again = Splits.draw(other, Draw(5, 50, 30), alpha=0.05).cards(manifest)  # the newest of the same data
    assert [(card.fingerprint, card.seed) for card in again] == [(other.fingerprint, 5), (source.fingerprint, 7)]


def test_cards_of_older_guards_have_the_guards_seed(source: ImageData) -> None:
    splits = Splits.draw(source, Draw(7, 40, 60), alpha=0.05)
    manifest = made_from(splits, seed=7)
    old = DataCard.model_validate(manifest.data[0].model_dump(exclude={"seed"}))
    manifest = manifest.model_copy(update={"data": (old,)})
    assert Draw.of_guard(manifest, source) == Draw(7, 40, 60)
    (_, carried) = Splits.draw(load((source.take(np.arange(200)), source.labels[:200])), Draw(1), alpha=0.05).cards(
        manifest
    )
    assert carried.seed == 7


def test_cards_of_another_guard_keep_the_names_that_their_data_has(source: ImageData, four: Arrays) -> None:
    first = made_from(Splits.draw(source, Draw(7, 40, 60), alpha=0.05), seed=7)
    renamed = ("d", "c", "b", "a")
    splits = Splits.draw(load((255 - four[0], four[1])), Draw(3, 50, 30), alpha=0.05)
    splits = splits.in_order(class_order(4, splits.source.class_names, (), renamed))
    manifest = first.model_copy(update={"class_names": renamed, "data": splits.cards(first)})
    tested = id_test_images(manifest, source)
    np.testing.assert_array_equal(tested.labels, tested.images.labels)
    assert manifest.data[1].class_names == source.class_names


def test_splits_from_before_copies_were_looked_for_stay_so(source: ImageData) -> None:
    """A guard of an old one's network is drawn again as the old one was."""
    splits = Splits.draw(source, Draw(7, 40, 60, together=False), alpha=0.05)
    assert Draw.of_guard(made_from(splits, seed=7), source) == Draw(7, 40, 60, together=False)


@pytest.mark.parametrize(
    "other",
    [
        lambda source: source.subset(np.arange(300)),  # its labels give other rows
        lambda source: load((source.take(np.arange(400)), source.labels[::-1])),
    ],
    ids=["a part", "other data"],
)
def test_a_guard_draws_nothing_from_other_data(source: ImageData, other: Callable[[Any], ImageData]) -> None:
    manifest = made_from(Splits.draw(source, Draw(7, 40, 60), alpha=0.05), seed=7)
    assert Draw.of_guard(manifest, other(source)) is None
    assert Draw.of_guard(None, source) is None


def test_numbers_that_ask_for_another_split_are_ignored_and_logged(
    source: ImageData, four: Arrays, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = Draw(7, 40, 60)
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        assert Draw(1, None, 60).kept(earlier) == earlier
        assert caplog.text == ""
        assert Draw(1, 50, None).kept(earlier) == earlier
    assert "calibration=50 is ignored: the split this network was trained with is kept" in caplog.text
    kept = Draw(1, four[0], 0.1).kept(earlier)
    assert (kept.seed, kept.test) == (7, 60)
    assert kept.calibration is four[0]


def test_reading_images_needs_no_torch() -> None:
    """Whoever evaluates an exported guard reads, splits and matches without what trains."""
    code = (
        "import sys, guard.data; from guard.data.held_out import Draw, Splits; import guard.data.test_images; "
        "data = guard.data.load('digits'); splits = Splits.draw(data, Draw(0), alpha=0.05); "
        "heavy = {'torch', 'train', 'export', 'onnxruntime'}; "
        "print(len(data), len(splits.calibration), sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1797 400 []"


def test_labels_without_names_are_the_guards_indices_in_any_order(four: Arrays) -> None:
    """guard.fit(class_names=...) puts the data's classes into another order than its own: not those of the test set."""
    names = ("d", "c", "b", "a")
    source = replace(load(four), class_names=("a", "b", "c", "d"))
    assert source.labels is not None
    for test in ((four[0][:40], 3 - four[1][:40]), load((four[0][:40], 3 - four[1][:40]))):
        splits = Splits.draw(source, Draw(0, test, test), alpha=0.05, labelled_calibration=True)
        ordered = splits.in_order(class_order(4, source.class_names, (), names))
        for part in (ordered.test, ordered.calibration):
            assert part is not None
            assert part.class_names == names
        assert ordered.test is not None
        np.testing.assert_array_equal(ordered.test.labels, 3 - four[1][:40])
        np.testing.assert_array_equal(ordered.train.labels, 3 - four[1][ordered.train.rows])
    few = Splits.draw(source, Draw(0, 40, (four[0][:40], four[1][:40])), alpha=0.05)
    with pytest.raises(DataError, match="has classes that the guard does not know: 0, 1, 2, 3; the guard's are: x, y"):
        few.in_order(ClassOrder(("x", "y"), np.array([0, 1, 0, 1]), names))


def test_sets_given_apart_have_any_of_the_models_classes(four: Arrays) -> None:
    """As guard.evaluate takes them: the data may lack classes that the model and its test images have."""
    names = ("e", "c", "b", "a")
    apart = replace(load((four[0][:40], 3 - four[1][:40])), class_names=names)
    source = replace(load((four[0][40:], four[1][40:] % 3)), class_names=("a", "b", "c"))
    splits = Splits.draw(source, Draw(0, apart, apart), alpha=0.05, labelled_calibration=True)
    order = class_order(4, source.class_names, names)
    ordered = splits.in_order(order)
    manifest = made_from(ordered, seed=0).model_copy(update={"class_names": names})
    for part in (ordered.calibration, ordered.test):
        assert part is not None
        assert part.class_names == names
        np.testing.assert_array_equal(part.labels, id_test_images(manifest, part).labels)
        np.testing.assert_array_equal(part.labels, apart.labels[part.rows])
    with pytest.raises(DataError, match="has classes that the guard does not know: e"):
        splits.in_order()


@pytest.mark.parametrize("settled", [0, 20])
def test_sets_given_apart_are_known_again(
    settled: int, source: ImageData, four: Arrays, caplog: pytest.LogCaptureFixture
) -> None:
    inverted = 255 - four[0]
    threshold, tested = (inverted[:40], four[1][:40]), (inverted[40:90], four[1][40:90])
    splits = replace(Splits.draw(source, Draw(0, threshold[0], tested), alpha=0.05).in_order(), settled=settled)
    assert "are among those" not in caplog.text
    manifest = made_from(splits, seed=0)
    assert [card.given_as for card in manifest.data] == [(), ("calibration",), ("test",)]
    assert [card.settled for card in manifest.data] == [0, settled, 0]
    assert "the guard's threshold was set on, so its" in id_test_images(manifest, threshold).notes[-1]
    assert "is the test set that the guard was given" in id_test_images(manifest, tested).notes[-1]
    assert id_test_images(manifest, (inverted[90:], four[1][90:])).notes == ()
    for data in (threshold, threshold[0]):  # without the images that the score has learned from
        assert len(calibration_images(manifest, data, labelled=False)[0]) == 40 - settled
    assert Draw.of_guard(manifest, load(threshold)) is None


def test_equal_sets_given_apart_are_named(source: ImageData, four: Arrays, caplog: pytest.LogCaptureFixture) -> None:
    apart = 255 - four[0][:60], four[1][:60]
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        splits = Splits.draw(source, Draw(0, (apart[0][:30], apart[1][:30]), apart), alpha=0.05)
    assert "30 of the 60 test images are among those of arrays too, to the pixel" in caplog.text
    assert len(splits.apart) == 2
    (both,) = Splits.draw(source, Draw(0, apart, apart), alpha=0.05).apart
    assert both.given_as == ("calibration", "test")
