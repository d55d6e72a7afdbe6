"""Which logit each class of the data is."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from guard.data import load
from guard.data.classes import class_order, match_classes
from guard.data.held_out import Draw, Splits
from guard.errors import ConfigError, DataError, ModelError

MODEL = ("dog", "cat", "bird")
GUARD = ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("data", "model", "given", "names", "positions"),
    [
        (("bird", "cat", "dog"), MODEL, None, MODEL, [2, 1, 0]),
        (MODEL, MODEL, None, MODEL, [0, 1, 2]),
        (("bird", "dog"), MODEL, None, MODEL, [2, 0]),
        (("0", "1", "2"), MODEL, None, MODEL, [0, 1, 2]),  # arrays have no names
        (("a", "b", "c"), (), None, ("a", "b", "c"), [0, 1, 2]),
        (("a", "b", "c"), MODEL, None, ("a", "b", "c"), [0, 1, 2]),
        (("a", "b", "c"), MODEL, ("x", "y", "z"), ("x", "y", "z"), [0, 1, 2]),
        (("bird", "cat", "dog"), (), MODEL, MODEL, [2, 1, 0]),
        (("cat", "dog"), (), MODEL, MODEL, [1, 0]),
        (("bird", "cat", "dog"), ("x", "y", "z"), MODEL, MODEL, [2, 1, 0]),
        (("0", "2"), MODEL, None, MODEL, [0, 2]),  # indices, one without images
        (("1", "2", "3"), MODEL, None, MODEL, [0, 1, 2]),
        (("00", "02", "01"), (), MODEL, MODEL, [0, 2, 1]),
        (("BIRD", " cat", "Dog"), MODEL, None, MODEL, [2, 1, 0]),
        (("e\u0301lan", "ice_cream"), (), ("Ice-Cream", "x", "\u00c9lan"), ("Ice-Cream", "x", "\u00c9lan"), [2, 0]),
        (("cat", "Cat"), ("dog", "Cat", "cat"), None, ("dog", "Cat", "cat"), [2, 1]),  # the exact name first
        (
            ("LABEL_1", "LABEL_0", "LABEL_2"),
            ("LABEL_0", "LABEL_1", "LABEL_2"),
            None,
            ("LABEL_0", "LABEL_1", "LABEL_2"),
            [1, 0, 2],
        ),
        (("a", "b", "c"), ("LABEL_0", "LABEL_1", "LABEL_2"), None, ("a", "b", "c"), [0, 1, 2]),
        (("a", "a b", "c"), ("c", "c", "c"), ("c", "a b", "a"), ("c", "a b", "a"), [2, 1, 0]),
    ],
)
def test_by_name_where_there_are_names(
    data: tuple[str, ...],
    model: tuple[str, ...],
    given: tuple[str, ...] | None,
    names: tuple[str, ...],
    positions: list[int],
) -> None:
    order = class_order(3, data, model, given)
    assert order.names == names
    assert order.positions.tolist() == positions


@pytest.mark.parametrize(
    ("data", "model", "given", "error", "message"),
    [
        (("cat", "fox"), MODEL, None, DataError, "classes that the model does not know: fox; the model's are dog, cat"),
        (("cat", "dog", "fox"), MODEL, None, DataError, "some classes of the data have the model's names and fox have"),
        (("a", "b"), (), None, ModelError, r"the model answers 3 classes, the data has 2 \(a, b \.\.\.\)"),
        (("0", "1"), (), None, ModelError, "the model answers 3 classes, the data has 2"),
        (("0", "7"), MODEL, None, DataError, "classes that the model does not know: 0, 7"),
        (("a", "b", "c"), ("x", "y"), None, ModelError, "the model brings 2 class names .x, y., but answers 3 classes"),
        (("Cat", "cat_", "dog"), MODEL, None, DataError, "'Cat' and 'cat_' of the data both fit 'cat'; rename one"),
        (
            ("a-b", "c"),
            ("a b", "A_B", "c"),
            None,
            DataError,
            "class 'a-b' of the data fits 'a b' and 'A_B'; give it the",
        ),
        (("a", "b", "c", "d"), (), None, ModelError, "the model answers 3 classes, the data has 4"),
        (
            ("a", "b", "c"),
            (),
            ("x", "y"),
            ConfigError,
            r"class_names has 2 names \(x, y\), but the model answers 3 classes",
        ),
        (("cat", "dog"), ("cat", "cat", "dog"), None, DataError, "two of the model's classes are named 'cat'"),
    ],
)
def test_what_cannot_be_matched(
    data: tuple[str, ...],
    model: tuple[str, ...],
    given: tuple[str, ...] | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        class_order(3, data, model, given)


def test_guesses_and_gaps_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        class_order(3, MODEL, MODEL)
        class_order(3, ("bird", "cat", "dog"), MODEL)
        assert caplog.text == ""
        class_order(3, ("cat", "dog"), MODEL)
        assert "the data has no images of 1 of the model's 3 classes (bird)" in caplog.text
        class_order(3, ("a", "b", "c"), MODEL)
        assert "the data's classes (a, b, c) are taken for the model's (dog, cat, bird) in this order" in caplog.text


def test_every_split_gets_the_order_of_the_logits_and_keeps_its_images() -> None:
    images = np.arange(120, dtype=np.uint8).repeat(16 * 16 * 3).reshape(120, 16, 16, 3)
    source = load((images, np.arange(120) % 2))
    splits = Splits.draw(source, Draw(0, 40, 20), alpha=0.05)
    reordered = splits.in_order(class_order(3, source.class_names, (), ("x", "1", "0")))
    for before, after in (
        (splits.train, reordered.train),
        (splits.calibration, reordered.calibration),
        (splits.test, reordered.test),
    ):
        assert before is not None
        assert after is not None
        assert before.labels is not None
        assert after.labels is not None
        np.testing.assert_array_equal(after.labels, 2 - before.labels)
        np.testing.assert_array_equal(after.array, before.array)
        assert after.class_names == ("x", "1", "0")


def test_labels_are_matched_by_class_name() -> None:
    labels, note = match_classes(np.array([0, 1, 1]), ("eel", "cat"), GUARD, "zoo")
    np.testing.assert_array_equal(labels, [2, 0, 0])
    assert note == ""


def test_arrays_without_names_are_class_indices_and_it_is_said() -> None:
    labels, note = match_classes(np.array([0, 1]), ("0", "1"), GUARD, "arrays")
    np.testing.assert_array_equal(labels, [0, 1])
    assert "class indices" in note


@pytest.mark.parametrize("names", [("cat", "wolf"), ("0", "1", "2", "3")])
def test_unknown_classes_are_refused_with_both_lists(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=rf"zoo has classes .*{names[-1]}.*the guard's are: cat, dog, eel"):
        match_classes(np.arange(len(names)), names, GUARD, "zoo")


def test_a_guard_knows_the_names_of_its_own_data_too() -> None:
    labels, note = match_classes(np.array([0, 1]), ("katze", "Hund"), GUARD, "zoo", ("Katze", "hund", ""))
    np.testing.assert_array_equal(labels, [0, 1])
    assert note == ""


def test_numbered_labels_are_the_names_of_a_guard_that_has_such() -> None:
    text = tuple(sorted(str(i) for i in range(11)))
    labels, note = match_classes(np.arange(11), tuple(map(str, range(11))), text, "arrays")
    assert [text[label] for label in labels] == [str(i) for i in range(11)]
    assert "class names, not as indices" in note


@pytest.mark.parametrize("labels", [[1, 2, 3, 4], [1, 2, 3], [2, 4]])
def test_labels_from_1_are_names_where_the_guard_has_them(labels: list[int]) -> None:
    """Nothing has the label 0, so it is not a class of the data."""
    guard = ("1", "2", "3", "4")
    found, note = match_classes(np.array(labels), tuple(map(str, range(max(labels) + 1))), guard, "arrays")
    assert [guard[i] for i in found] == [str(label) for label in labels]
    assert "class names, not as indices" in note
