"""R-MAXCONF recomputed from the probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from guard.graph.outputs import Outputs
from train.losses.base import Batch
from train.losses.max_confidence import MaxConfidenceLoss, log_confidence


def logits(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_it_is_the_mean_log_of_the_largest_probability() -> None:
    inliers, outliers = logits(4, 5), logits(6, 5)
    batch = Batch(Outputs(inliers, inliers, None), torch.zeros(4).long(), Outputs(outliers, outliers, None))
    expected = 0.0
    for row in outliers.tolist():
        total = sum(math.exp(value) for value in row)
        expected += math.log(max(math.exp(value) / total for value in row)) / 6
    terms = MaxConfidenceLoss(2.0).loss(batch)
    assert list(terms) == ["confidence"]
    assert terms["confidence"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_its_range_is_from_the_uniform_distribution_to_certainty() -> None:
    assert log_confidence(torch.full((1, 7), 2.5)).item() == pytest.approx(-math.log(7))
    assert log_confidence(torch.tensor([[1e4, 0.0, 0.0]])).item() == 0
    found = log_confidence(logits(1000, 7))
    assert (found > -math.log(7)).all()
    assert (found < 0).all()


def test_a_step_down_its_gradient_makes_outliers_less_certain() -> None:
    start = logits(20, 5).double().requires_grad_()
    log_confidence(start).sum().backward()
    assert start.grad is not None
    assert (log_confidence(start.detach() - 0.01 * start.grad) < log_confidence(start)).all()
    assert torch.autograd.gradcheck(log_confidence, logits(3, 4).double().requires_grad_())
