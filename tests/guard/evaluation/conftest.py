"""One evaluation of a guard that reads its answers from pixels, so that every number is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

import guard
from guard.calibration.conformal import calibrate
from guard.evaluation.result import Evaluation
from guard.manifest import Calibration
from tests.guard.evaluation.pixel_guard import normal_scores, pictures, pixel_guard


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(normal_scores(1000, 4, seed=1), alpha=0.05)


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true labels, predicted labels, scores) of 400 ID images; every tenth prediction is wrong."""
    labels = np.random.default_rng(2).integers(0, 3, 400)
    predicted = labels.copy()
    predicted[::10] = (labels[::10] + 1) % 3
    return labels, predicted, normal_scores(400, 4, seed=3)


@pytest.fixture(scope="module")
def evaluation(calibration: Calibration, answers: tuple[np.ndarray, ...]) -> Evaluation:
    labels, predicted, scores = answers
    ood = {
        "far": pictures(np.zeros(200, int), normal_scores(200, 9, seed=4)),
        "further": pictures(np.zeros(100, int), normal_scores(100, 12, seed=5)),
        "near": pictures(np.zeros(150, int), normal_scores(150, 5, seed=6)),
    }
    return guard.evaluate(
        pixel_guard(calibration),
        id=(pictures(predicted, scores), labels),
        ood=ood,
        near=["near"],
        bootstrap=50,
        seed=7,
        batch_size=33,
    )
