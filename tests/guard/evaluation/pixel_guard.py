"""A guard whose answers are written into the pixels."""

from __future__ import annotations

import numpy as np

from guard.detector import Guard
from guard.manifest import Calibration, Manifest, Normalisation, Preprocess
from guard.runtimes import Outputs

NAMES = ("cat", "dog", "eel")


class PixelRuntime:
    """Reads label and score from the first pixels of an image: label, then score in 1/16."""

    name = "pixels"
    device = "cpu"

    def run(self, images: np.ndarray, threshold: float | None = None) -> Outputs:
        label = images[:, 0, 0, 0].astype(np.int64)
        score = images[:, 0, 1, 0].astype(np.float32) / 16
        probabilities = np.full((len(images), len(NAMES)), 0.1, np.float32)
        probabilities[np.arange(len(images)), label] = 0.8
        assert threshold is not None
        return Outputs(label, probabilities, score, score > np.float32(threshold))


def pictures(labels: np.ndarray, scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 (N, 8, 8, 3) images for which the guard answers `labels` and `scores` (in 0 .. 15.9, rounded to 1/16)."""
    images = np.random.default_rng(seed).integers(0, 255, size=(len(labels), 8, 8, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = labels
    images[:, 0, 1, 0] = np.clip(np.round(scores * 16), 0, 255)
    return images


def pixel_guard(calibration: Calibration | None, **facts: object) -> Guard:
    manifest = Manifest.model_validate(
        {
            "name": "pets",
            "class_names": NAMES,
            "preprocess": Preprocess(height=8, width=8),
            "normalisation": Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
            "method": "plain",
            "backbone": "wrn16_2",
            "head": "linear",
            "score": "energy",
            "calibration": calibration,
            "weights_sha256": "ab" * 32,
            **facts,
        }
    )
    return Guard(manifest, PixelRuntime())


def normal_scores(count: int, centre: float, seed: int) -> np.ndarray:
    return np.round(np.random.default_rng(seed).normal(centre, 1, count).clip(0, 15.9) * 16) / 16


def training_data(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(9).integers(0, 3, count)
    return pictures(labels, normal_scores(count, 4, seed=10)), labels
