"""The adaptive margin on energies, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.graph.outputs import Outputs
from train.losses.base import Batch
from train.losses.energy_margin import EnergyMarginLoss, adaptive_margin, energy_margin_loss


def energies(n: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed)) - 5


def slow(inliers: list[float], outliers: list[float]) -> float:
    margin = np.quantile(inliers, 0.95) - np.quantile(inliers, 0.5)
    pairs = [max(0.0, margin + i - j) for i in inliers for j in outliers]
    return float(sum(pairs) / len(pairs))


@pytest.mark.parametrize(("n", "k"), [(32, 32), (7, 20), (1, 3)])
def test_it_is_the_mean_over_pairs(n: int, k: int) -> None:
    inliers, outliers = energies(n, 0), energies(k, 1)
    assert energy_margin_loss(inliers, outliers).item() == pytest.approx(
        slow(inliers.tolist(), outliers.tolist()), rel=1e-5
    )


def test_it_is_zero_where_every_outlier_is_beyond_the_margin_and_grows_within() -> None:
    inliers = energies(20, 0)
    beyond = inliers.max() + adaptive_margin(inliers) + torch.tensor([0.01, 5.0])
    assert energy_margin_loss(inliers, beyond) == 0
    assert energy_margin_loss(inliers, beyond - 0.5) > 0


def test_the_margin_has_no_gradient() -> None:
    """With outliers far inside, every pair counts: each image's share is 1 / N, whatever quantile it is."""
    inliers = energies(40, 0).requires_grad_()
    energy_margin_loss(inliers, torch.full((5,), -100.0)).backward()
    torch.testing.assert_close(inliers.grad, torch.full((40,), 1 / 40))


def test_it_lowers_images_and_raises_outliers_through_the_logits() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    shown = Outputs(logits, logits, None)
    terms = EnergyMarginLoss(0.3).loss(Batch(shown, torch.zeros(6, dtype=torch.int64), shown))
    e = [-float(np.log(np.exp(row).sum())) for row in logits.detach().double().numpy()]
    assert terms["margin"].item() == pytest.approx(0.3 * slow(e, e), rel=1e-4)
    assert terms["margin"].dtype == torch.float32
    terms["margin"].backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
