"""Which of the images given are evaluated on, and with which labels."""

from __future__ import annotations

import numpy as np

import guard
from guard.data import load, split
from guard.data.test_images import id_test_images
from guard.manifest import Calibration, DataCard, Preprocess
from tests.guard.evaluation.pixel_guard import pixel_guard, training_data


def test_training_data_is_reduced_to_its_held_out_split(calibration: Calibration) -> None:
    images, labels = training_data()
    loaded = load((images, labels), preprocess=Preprocess(height=8, width=8))
    rows = split(labels, seed=5, calibration=60, test=45)
    card = DataCard(
        name="mine", fingerprint=loaded.fingerprint, images=300, splits={k: len(v) for k, v in rows.items()}
    )
    g = pixel_guard(calibration, data=(card,), seed=5)
    result = guard.evaluate(g, id=(images, labels))
    assert result.id.images == 45
    assert "only the 45 images held out" in result.note
    np.testing.assert_array_equal(result.id.source.rows, rows["test"])
    np.testing.assert_array_equal(result.id.labels, labels[rows["test"]])
    first = guard.evaluate(g, id=(images, labels), max_images=10)
    np.testing.assert_array_equal(first.id.source.rows, rows["test"][:10])


def test_a_part_of_thetraining_data_is_used_as_given_and_it_is_said(calibration: Calibration) -> None:
    images, labels = training_data()
    loaded = load((images, labels), preprocess=Preprocess(height=8, width=8))
    card = DataCard(name="mine", fingerprint=loaded.fingerprint, images=300, splits={"train": 300, "test": 0})
    g = pixel_guard(calibration, data=(card,))
    part = guard.evaluate(g, id=loaded.subset(np.arange(50)))
    assert part.id.images == 50
    assert "as it was given" in part.note
    whole = guard.evaluate(g, id=(images, labels))
    assert whole.id.images == 300
    assert "no test split held out" in whole.note


def test_other_data_is_used_whole_without_a_note(calibration: Calibration) -> None:
    chosen = id_test_images(pixel_guard(calibration, class_names=("0", "1", "2")).manifest, training_data())
    assert (len(chosen.images), chosen.notes) == (300, ())


def test_max_images_takes_the_first_of_each_set(calibration: Calibration) -> None:
    images, labels = training_data()
    result = guard.evaluate(pixel_guard(calibration), id=(images, labels), ood={"a": images}, max_images=30)
    assert (result.id.images, result.ood[0].images) == (30, 30)
    np.testing.assert_array_equal(result.id.labels, labels[:30])
