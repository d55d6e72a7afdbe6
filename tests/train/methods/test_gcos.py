"""GCOS: from options to a guard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import guard
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.outliers.features.class_shell import ClassShell


def test_its_outliers_are_of_training_features_alone_and_count_once_queues_are_full(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No calibration or test image passes through the queue: it sees as many features as there are in training."""
    observe, sample = ClassShell.observe, ClassShell.sample
    seen: list[int] = []
    ready: list[bool] = []

    def spy_observe(self: ClassShell, features: Any, labels: Any) -> None:
        seen.append(len(labels))
        observe(self, features, labels)

    def spy_sample(self: ClassShell, batch: Any, generator: Any) -> Any:
        assert self.queue.size == 20
        outliers = sample(self, batch, generator)
        ready.append(bool(outliers.ready))
        return outliers

    monkeypatch.setattr(ClassShell, "observe", spy_observe)
    monkeypatch.setattr(ClassShell, "sample", spy_sample)
    g = guard.train(four, method="gcos", queue=20, start=0.5, **{**tiny, "backbone": "wrn10_2", "epochs": 2})
    trained = len(g.splits["train"])
    assert sum(seen) <= 2 * trained
    assert all(ready)
    assert len(ready) == len(seen) / 2


def test_grey_images_of_two_classes(four: Arrays, tiny: dict[str, Any]) -> None:
    images = four[0][:, :, 2:, :1][four[1] < 2], four[1][four[1] < 2]
    g = guard.train(images, method="gcos", lr=0.02, **{**tiny, "backbone": "wrn10_2", "in_chans": 1})
    assert g.manifest.metrics["test_accuracy"] > 0.8
    assert np.isfinite(g.predict(images[0]).ood_score).all()


def test_classes_of_a_few_images_are_refused_before_training(four: Arrays, tiny: dict[str, Any]) -> None:
    rows = np.concatenate([np.flatnonzero(four[1] < 3), np.flatnonzero(four[1] == 3)[:9]])
    with pytest.raises(ConfigError, match=r"'gcos' needs 10 training images of every class .*, the smallest has [3-9]"):
        guard.train((four[0][rows], four[1][rows]), method="gcos", **tiny)
