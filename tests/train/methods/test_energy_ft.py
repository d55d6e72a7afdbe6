"""Energy-bounded fine-tuning moves energies to their sides of the margins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.outliers.base import IDBatch
from train.outliers.images import PatchShuffle


def test_it_moves_the_energies_apart(
    trained: Callable[[str], Any], four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain = trained("plain")
    run = plain.save_pretrained(tmp_path / "plain")
    images = four[0][plain.splits["test"]]
    batch = IDBatch(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.int64))
    outliers = PatchShuffle(len(images), 4).sample(batch, torch.Generator().manual_seed(5)).data.numpy()

    def tuned(weight: float) -> Any:
        options = {"tune_epochs": 2, "tune_lr": 0.01, "weight": weight, "score": "energy", **tiny}
        del options["epochs"]  # the run in init= has had its own
        return guard.train(four, method="energy_ft", init=run, outliers="patch_shuffle", **options)

    def gap(g: guard.Guard) -> float:
        """Between the mean energies of outliers and in-distribution images, in standard deviations."""
        inside, outside = (g.predict(x).ood_score for x in (images, outliers))
        return float((outside.mean() - inside.mean()) / np.hypot(inside.std(), outside.std()))

    control, bounded = tuned(0.0), tuned(0.5)
    assert gap(bounded) > gap(control) + 0.3
    assert bounded.manifest.metrics["test_accuracy"] > plain.manifest.metrics["test_accuracy"] - 0.05


def test_crossed_margins_are_refused_before_any_work(four: Arrays) -> None:
    with pytest.raises(ConfigError, match=r"margin_in must be below margin_out, got -5\.0 and -23\.0; swap the two"):
        guard.train(four, method="energy_ft", outliers="patch_shuffle", margin_in=-5, margin_out=-23, device="cpu")
