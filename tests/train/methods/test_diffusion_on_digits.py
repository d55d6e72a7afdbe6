"""The methods that decode with a diffusion model, whole, on digits: one small model for all, against plain training.

`oal`, which needs more images to gain anything, has a test of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.demo import images as demo_images
from guard.evaluation import metrics
from tests.conftest import TINY, Arrays

log = logging.getLogger("ood_guard")

COMMON: dict[str, Any] = {**TINY, "backbone": "wrn10_2", "epochs": 12, "score": "energy", "in_chans": 1}
"""In grey: the model leaves a trace of colour on grey images, which is all that a detector would learn."""
ENCODER: dict[str, Any] = {"encoder": {"backbone": "wrn10_2", "epochs": 8, "batch_size": 32}}
STORE = {"store_size": 200}
METHODS: dict[str, dict[str, Any]] = {
    "label_mixup": STORE,
    "dream_ood": {**ENCODER, **STORE},
    "dream_id": {**ENCODER, **STORE},
    "bood": {**ENCODER, **STORE},
    "ncis": {**STORE, "invariants": {"epochs": 100}},
    "fodfom": {**ENCODER, "store_size": 128, "tune_epochs": 4},
}
# Digits are all object, so that a blurred one is too like a digit (docs/methods/fodfom.md).
ACCURACY_LOST = dict.fromkeys(METHODS, 0.06) | {"fodfom": 0.08}

Results = dict[str, float]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options with one diffusion model of the digits 0-3 for all methods, trained until they can be read."""
    folder = tmp_path_factory.mktemp("digits") / "diffusion"
    form = {"epochs": 40, "width": 16, "batch_size": 32, "sampling_steps": 10}
    return {"diffusion": {"folder": str(folder), "conditioning": "token", **form}}


@pytest.fixture(scope="module")
def measured(digits: Callable[[str], Arrays]) -> Callable[[guard.Guard], tuple[float, Results]]:
    """A guard's accuracy on digits that were not given to it, and its AUROC per OOD set."""
    images, labels = digits("0-3")
    outside = {
        "digits 4-9": digits("4-9")[0][:300],
        "noise": demo_images.uniform_noise(200, 16),
        "smooth noise": demo_images.smooth_noise(200, 16),
        "photographs": demo_images.photo_patches(200, 16),
    }

    def measure(g: guard.Guard) -> tuple[float, Results]:
        inside = g.predict(images[400:])
        aurocs = {name: metrics.auroc(inside.ood_score, g.predict(far).ood_score) for name, far in outside.items()}
        return float((inside.label == labels[400:]).mean()), aurocs

    return measure


@pytest.fixture(scope="module")
def plain(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of plain training."""
    out = tmp_path_factory.mktemp("plain")
    guard.train(four, method="plain", out=out, **COMMON)
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", METHODS)
def test_it_keeps_the_labels_and_beats_plain_training_somewhere(
    name: str, four: Arrays, plain: Path, model: dict[str, Any], measured: Any, tmp_path: Path
) -> None:
    """dream_id sees no outliers: its gain may be the accuracy."""
    start = {"init": plain} if name == "fodfom" else {}
    ours = guard.train(four, method=name, out=tmp_path, **COMMON, **start, **model, **METHODS[name])
    (accuracy, aurocs), (accuracy_before, before) = measured(ours), measured(guard.load(plain))
    gains = {what: aurocs[what] - before[what] for what in aurocs}
    log.info("%s: accuracy %.3f for %.3f, AUROC %s", name, accuracy, accuracy_before, np.round(list(gains.values()), 3))
    assert accuracy > accuracy_before - ACCURACY_LOST[name]
    assert max([*gains.values(), accuracy - accuracy_before if name == "dream_id" else -1]) > 0.002
