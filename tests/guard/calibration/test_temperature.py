"""Temperature scaling against the likelihood by its definition, and on logits whose temperature is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from guard.calibration.temperature import Labelled, fit_inverse_temperature, fit_temperature, tempered
from guard.errors import CalibrationError, DataError
from guard.evaluation.metrics import expected_calibration_error
from tests.references import calibration as reference


def calibrated(n: int, classes: int = 10, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, C) and labels drawn from their softmax: temperature 1 is right by construction."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (n, classes))
    labels = (softmax(logits).cumsum(1) > generator.random((n, 1))).argmax(1)
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("true", [0.2, 0.5, 1.0, 1.7, 3.0, 10.0])
def test_the_temperature_of_scaled_logits_is_found(true: float) -> None:
    """20,000 images leave about 1 % of noise."""
    logits, labels = calibrated(20_000)
    probabilities = softmax(true * logits).astype(np.float32)
    scaling = fit_temperature(Labelled(probabilities, labels))
    assert scaling.value == pytest.approx(true, rel=0.04)
    assert scaling.nll_after <= scaling.nll_before
    if true not in (1.0,):
        assert scaling.ece_after < 0.4 * scaling.ece_before
    assert scaling.ece_after < 0.012


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_minimum_of_the_likelihood_by_its_definition(seed: int) -> None:
    logits, labels = calibrated(300, classes=[2, 3, 10, 40][seed], seed=seed)
    logits = logits * [0.1, 1.0, 4.0, 6.0][seed]
    found = optimize.minimize_scalar(
        lambda b: reference.nll(logits, labels, 1 / b), bounds=(1e-3, 50), options={"xatol": 1e-10}
    )
    assert fit_inverse_temperature(softmax(logits), labels) == pytest.approx(found.x, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_temperature_far_from_one_is_found_too(scale: float) -> None:
    """Newton's first steps from 1 would leave the bracket; 1,000 x larger logits saturate most probabilities."""
    logits, labels = calibrated(2000, classes=4)
    inverse = fit_inverse_temperature(softmax(scale * logits), labels)
    if scale < 1:
        assert inverse == pytest.approx(1 / scale, rel=0.1)
    else:  # what underflowed counts as the smallest float32, so that this is not exactly 1 / 1000
        assert 0 < inverse < 0.1


def test_tempering_is_the_softmax_of_scaled_logits() -> None:
    logits, _ = calibrated(500, spread=5)
    for temperature in (0.5, 1.0, 2.5):
        expected = softmax(logits / temperature)
        found = tempered(softmax(logits).astype(np.float32), np.float32(1 / temperature))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=3e-7)
        np.testing.assert_array_equal(found.argmax(1), logits.argmax(1))


def test_probabilities_that_underflowed_stay_finite() -> None:
    probabilities = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    for inverse in (0.1, 1.0, 5.0):
        found = tempered(probabilities, np.float32(inverse))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        np.testing.assert_array_equal(found.argmax(1), [0, 1])
    labels = np.array([0, 0])  # one of them has the probability 0 for its true class
    assert fit_inverse_temperature(probabilities, labels) > 0


def test_the_record_says_which_images_were_measured() -> None:
    logits, labels = calibrated(4000, seed=3)
    probabilities = softmax(2 * logits)
    held_out, test = Labelled(probabilities[:2500], labels[:2500]), Labelled(probabilities[2500:], labels[2500:])
    own, other = fit_temperature(held_out), fit_temperature(held_out, test)
    assert own.value == other.value
    assert (own.measured_on, own.measured_images, own.n) == ("calibration", 2500, 2500)
    assert (other.measured_on, other.measured_images, other.n) == ("test", 1500, 2500)
    assert other.ece_before == pytest.approx(reference.ece(*test), abs=1e-9)
    assert other.nll_before == pytest.approx(reference.nll(2 * logits[2500:], labels[2500:], 1.0))
    assert other.nll_after == pytest.approx(reference.nll(2 * logits[2500:], labels[2500:], other.value), rel=1e-5)
    assert own.nll_after == pytest.approx(reference.nll(2 * logits[:2500], labels[:2500], own.value), rel=1e-5)


def test_what_no_temperature_fits_is_refused() -> None:
    logits, _ = calibrated(100)
    with pytest.raises(CalibrationError, match="all 100 labelled images are classified right"):
        fit_temperature(Labelled(softmax(logits), logits.argmax(1)))
    with pytest.raises(CalibrationError, match=r"less likely than a uniform guess.*order of the guard's classes"):
        fit_temperature(Labelled(softmax(logits), logits.argmin(1)))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(9, int), r"one class index per image, 10 of them; got int64 of shape \(9,\)"),
        (np.zeros(10), "got float64"),
        (np.full(10, 3), "must be 0 to 2, got 3 to 3"),
    ],
)
def test_labels_that_are_none_are_refused(labels: np.ndarray, sentence: str) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        fit_inverse_temperature(np.full((10, 3), 1 / 3), labels)


# ----------------------------------------------------------------------------------------- expected calibration error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_its_definition(bins: int) -> None:
    logits, labels = calibrated(700, classes=5, seed=bins)
    probabilities = softmax(1.8 * logits)
    assert expected_calibration_error(probabilities, labels, bins=bins) == pytest.approx(
        reference.ece(probabilities, labels, bins), abs=1e-12
    )


def test_a_confidence_on_an_edge_belongs_to_the_bin_that_ends_there() -> None:
    probabilities = np.array([[0.5, 0.5], [0.6, 0.4], [1.0, 0.0], [0.75, 0.25]])
    labels = np.array([0, 1, 0, 0])
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(
        (0.5 + abs(2 - 0.6 - 1.0 - 0.75)) / 4
    )
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(
        reference.ece(probabilities, labels, 2)
    )


def test_certain_and_right_is_zero_certain_and_wrong_is_one() -> None:
    probabilities = np.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error(probabilities, np.array([0, 1, 2, 0])) == 0
    assert expected_calibration_error(probabilities, np.array([1, 2, 0, 1])) == 1


def test_ece_refuses_what_is_not_labelled_probabilities() -> None:
    with pytest.raises(DataError, match=r"got \(3,\) and \(3,\)"):
        expected_calibration_error(np.zeros(3), np.zeros(3, int))
    with pytest.raises(DataError, match=r"got \(0, 2\) and \(0,\)"):
        expected_calibration_error(np.zeros((0, 2)), np.zeros(0, int))
