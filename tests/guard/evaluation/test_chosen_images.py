"""Which of the images given are evaluated on, and with which labels."""

from __future__ import annotations

import numpy as np
import pytest

import guard
from guard.data import load, split
from guard.data.test_images import id_test_images, ood_images
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
    some = guard.evaluate(g, id=(images, labels), max_images=10)
    assert some.id.images == 10
    assert set(some.id.source.rows) < set(rows["test"])


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


def test_max_images_are_drawn_at_random_by_the_seed(calibration: Calibration) -> None:
    """Files are in the order of their classes: the first would be of one."""
    images, labels = training_data()
    order = np.argsort(labels, kind="stable")
    images, labels = images[order], labels[order]

    def evaluated(seed: int) -> guard.evaluation.Evaluation:
        data = {"id": (images, labels), "ood": {"a": images}}
        return guard.evaluate(pixel_guard(calibration), **data, max_images=30, seed=seed, bootstrap=0)

    first, again, other = evaluated(0), evaluated(0), evaluated(1)
    assert (first.id.images, first.ood[0].images) == (30, 30)
    assert set(first.id.labels) == set(labels)
    np.testing.assert_array_equal(first.id.labels, labels[first.id.source.rows])
    for part in (lambda e: e.id.source.rows, lambda e: e.ood[0].source.rows):
        np.testing.assert_array_equal(part(first), part(again))
        assert part(first).tolist() != part(other).tolist()


def test_noise_is_an_ood_set_by_its_name(calibration: Calibration) -> None:
    manifest = pixel_guard(calibration).manifest
    gaussian, uniform = (ood_images(manifest, "x", name, 40).array for name in ("gaussian_noise", "uniform_noise"))
    assert gaussian is not None
    assert uniform is not None
    assert gaussian.shape == uniform.shape == (40, 8, 8, 3)
    assert (gaussian == 0).mean() == pytest.approx(0.31, abs=0.02)  # P(N(0.5, 1) < 0)
    assert (uniform == 0).mean() < 0.02
    assert uniform.std() == pytest.approx(255 / 12**0.5, rel=0.03)
    np.testing.assert_array_equal(ood_images(manifest, "x", "gaussian_noise", 40).array, gaussian)
    assert len(ood_images(manifest, "x", "uniform_noise")) == 1000
