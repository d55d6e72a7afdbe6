"""The terms that tell auxiliary images with a class from outliers: smoothed cross-entropy, uniform target, K+1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.graph.outputs import Outputs
from guard.heads import create_head
from train.losses.base import Batch, Regulariser
from train.losses.k_plus_1 import KPlusOneLoss
from train.losses.smoothed_cross_entropy import SmoothedCrossEntropyLoss
from train.losses.uniform_target import UniformTargetLoss, uniform_target_loss

LABELS = torch.tensor([0, 2, 1])
MIXED = torch.tensor([1, -1, 0, -1])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(inside: Tensor, outside: Tensor, labels: Tensor | None) -> Batch:
    return Batch(Outputs(inside, inside, None), LABELS, Outputs(outside, outside, None), labels)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def smoothed(row: list[float], label: int, a: float) -> float:
    p = softmax(row)
    return -sum(((1 - a) * (c == label) + a / len(row)) * math.log(p[c]) for c in range(len(row)))


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_smoothed_cross_entropy_is_the_mean_over_all_that_have_a_class(smoothing: float) -> None:
    inside, outside = random(3, 4), random(4, 4, seed=1)
    term = SmoothedCrossEntropyLoss(smoothing).loss(batch_of(inside, outside, MIXED))
    items = [*zip(inside.tolist(), LABELS.tolist(), strict=True), (outside[0].tolist(), 1), (outside[2].tolist(), 0)]
    expected = sum(smoothed(row, label, smoothing) for row, label in items) / 5
    assert term["smoothed_ce"].item() == pytest.approx(expected, rel=1e-5)


def test_smoothed_cross_entropy_without_auxiliary_images() -> None:
    inside = random(3, 4)
    term = SmoothedCrossEntropyLoss(0.5).loss(batch_of(inside, random(4, 4), None))
    expected = sum(smoothed(row, y, 0.5) for row, y in zip(inside.tolist(), LABELS.tolist(), strict=True)) / 3
    assert term["smoothed_ce"].item() == pytest.approx(expected, rel=1e-5)


def test_uniform_target_leaves_auxiliary_images_out() -> None:
    outside = random(4, 4, seed=1)
    term = UniformTargetLoss(0.5).loss(batch_of(random(3, 4), outside, MIXED))
    assert term["uniform"].item() == pytest.approx(0.5 * uniform_target_loss(outside[[1, 3]]).item(), rel=1e-6)
    none = UniformTargetLoss(0.5).loss(batch_of(random(3, 4), outside, torch.zeros(4, dtype=torch.int64)))
    assert none["uniform"].item() == 0


def k_plus_1(labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The term, and the features of both kinds that it may send a gradient to."""
    torch.manual_seed(0)
    head = create_head("c_plus_1", 6, 4)
    inside, outside = random(3, 6).requires_grad_(), random(4, 6, seed=1).requires_grad_()
    batch = Batch(Outputs(inside, head(inside), None), LABELS, Outputs(outside, head(outside), None), labels, head)
    return KPlusOneLoss(2.0).loss(batch)["k_plus_1"], inside, outside


def test_k_plus_1_is_the_cross_entropy_to_the_class_after_the_last() -> None:
    term, _, outside = k_plus_1(None)
    torch.manual_seed(0)
    head = create_head("c_plus_1", 6, 4)
    rows = head.all_logits(outside).tolist()
    assert all(len(row) == 5 for row in rows)
    expected = -2 * sum(math.log(softmax(row)[4]) for row in rows) / 4
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_k_plus_1_adds_to_outliers_only() -> None:
    term, inside, outside = k_plus_1(None)
    term.backward()
    assert inside.grad is None
    assert outside.grad is not None
    assert (outside.grad.abs().amax(-1) > 0).all()


def test_k_plus_1_leaves_auxiliary_images_their_class() -> None:
    term, _, outside = k_plus_1(MIXED)
    torch.manual_seed(0)
    rows = create_head("c_plus_1", 6, 4).all_logits(outside).tolist()
    expected = -2 * sum(math.log(softmax(row)[c]) for row, c in zip(rows, (1, 4, 0, 4), strict=True)) / 4
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_k_plus_1_refuses_a_head_without_the_extra_class() -> None:
    head = create_head("linear", 6, 4)
    rows = random(4, 6)
    batch = Batch(Outputs(rows, head(rows), None), LABELS, Outputs(rows, head(rows), None), None, head)
    with pytest.raises(ConfigError, match="needs a head that has one, got 'linear'; use head='c_plus_1'"):
        KPlusOneLoss().loss(batch)


@pytest.mark.parametrize("loss", [SmoothedCrossEntropyLoss(), UniformTargetLoss()], ids=lambda x: type(x).__name__)
def test_losses_of_bfloat16_logits_are_float32(loss: Regulariser) -> None:
    half = random(4, 3).bfloat16()
    terms = loss.loss(Batch(Outputs(half, half, None), MIXED.clamp_min(0), Outputs(half, half, None), MIXED))
    assert {value.dtype for value in terms.values()} == {torch.float32}
