"""The energy and its learned link, recomputed image by image, and which score a guard gets of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.errors import ConfigError
from guard.graph.outputs import Outputs
from guard.scores import create_score
from train.losses.base import Batch
from train.losses.energy_logistic import EnergyLogisticLoss, energy_logistic_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(inliers: Tensor, outliers: Tensor) -> Batch:
    """Logits (N, C) and (K, C) that are their own features."""
    labels = torch.zeros(len(inliers), dtype=torch.int64)
    return Batch(Outputs(inliers, inliers, None), labels, Outputs(outliers, outliers, None))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_energy_logistic_is_the_mean_over_the_concatenated_batch() -> None:
    inliers, outliers, slope, offset = random(6), random(2, seed=1), 1.3, -0.4
    total = sum(-log_sigmoid(slope * g + offset) for g in inliers.tolist())
    total += sum(-log_sigmoid(-(slope * g + offset)) for g in outliers.tolist())
    found = energy_logistic_loss(inliers, outliers, torch.tensor(slope).double(), torch.tensor(offset).double())
    assert found.item() == pytest.approx(total / 8, rel=1e-7)


def test_energy_logistic_gradients() -> None:
    arguments = (random(6), random(3, seed=1), random(1, seed=2)[0], random(1, seed=3)[0])
    assert torch.autograd.gradcheck(energy_logistic_loss, tuple(a.requires_grad_() for a in arguments))


def test_the_regulariser_weighs_classes_and_takes_the_log() -> None:
    loss = EnergyLogisticLoss(3, weight=0.1)
    with torch.no_grad():
        loss.class_weights.copy_(torch.tensor([0.5, -1.0, 2.0]))  # relu: the second counts nothing
        loss.slope.fill_(1.5)
        loss.offset.fill_(0.2)
    inliers, outliers = random(4, 3).float(), random(2, 3, seed=1).float()

    def g(row: list[float]) -> float:
        return math.log(0.5 * math.exp(row[0]) + 2.0 * math.exp(row[2]))

    total = sum(-log_sigmoid(1.5 * g(row) + 0.2) for row in inliers.tolist())
    total += sum(-log_sigmoid(-(1.5 * g(row) + 0.2)) for row in outliers.tolist())
    terms = loss.loss(batch_of(inliers, outliers))
    assert list(terms) == ["energy"]
    assert terms["energy"].item() == pytest.approx(0.1 * total / 6, rel=1e-5)


def test_everything_learned_gets_a_gradient_and_so_do_both_logits() -> None:
    loss = EnergyLogisticLoss(3)
    inliers, outliers = random(4, 3).float().requires_grad_(), random(2, 3, seed=1).float().requires_grad_()
    loss.loss(batch_of(inliers, outliers))["energy"].backward()
    for value in (*loss.parameters(), inliers, outliers):
        assert value.grad is not None
        assert value.grad.abs().max() > 0
    assert (inliers.grad.sum(-1) < 0).all()  # a step down raises the inliers' log-sum-exp
    assert (outliers.grad.sum(-1) > 0).all()


def test_no_class_weight_left_stays_finite() -> None:
    loss = EnergyLogisticLoss(3)
    with torch.no_grad():
        loss.class_weights.fill_(-1.0)
    value = loss.loss(batch_of(random(4, 3).float(), random(2, 3).float()))["energy"]
    value.backward()
    assert value.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())


def test_it_starts_as_plain_energy_or_as_published() -> None:
    plain = EnergyLogisticLoss(3, init="positive")
    assert plain.class_weights.tolist() == [1, 1, 1]
    assert (plain.slope.item(), plain.offset.item()) == (2.0, 0.0)
    torch.manual_seed(0)
    drawn = [EnergyLogisticLoss(50, init="random") for _ in range(40)]
    weights = torch.stack([d.class_weights for d in drawn])
    assert 0 <= weights.min() < 0.05
    assert 0.95 < weights.max() <= 1
    slopes = torch.stack([d.slope for d in drawn])
    assert slopes.min() < 0 < slopes.max()  # the difference of two uniform draws from (-1, 1): of either sign
    assert slopes.abs().max() <= 2


def test_what_it_learned_is_handed_to_its_score_and_no_other() -> None:
    loss = EnergyLogisticLoss(3)
    with torch.no_grad():
        loss.class_weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
        loss.slope.fill_(1.5)
    score = create_score("energy_logistic")
    loss.hand_over(score)
    logits = random(5, 3).float()
    g = torch.log(0.5 * logits[:, 0].exp() + 2 * logits[:, 2].exp())
    torch.testing.assert_close(score(logits, logits), -1.5 * g)
    loss.hand_over(create_score("energy"))  # carries nothing: nothing happens


def test_the_energy_can_be_plain_and_the_link_a_network() -> None:
    """Against the published pair of outputs: softmax of Linear(1, 512), ReLU, Linear(512, 2), cross-entropy."""
    torch.manual_seed(0)
    loss = EnergyLogisticLoss(3, weight=1.0, init="random", energy="plain", link="mlp")
    assert loss.class_weights is None
    assert loss.hidden is not None
    u, r, v = loss.hidden
    network = nn.Sequential(nn.Linear(1, 512), nn.ReLU(), nn.Linear(512, 2))
    with torch.no_grad():
        network[0].weight.copy_(u[:, None])
        network[0].bias.copy_(r)
        network[2].weight[1].copy_(network[2].weight[0] + v)
        network[2].bias[1].copy_(network[2].bias[0] + loss.offset)
    inliers, outliers = 5 * random(4, 3).float(), 5 * random(2, 3, seed=1).float()
    g = torch.cat([inliers, outliers]).logsumexp(-1, keepdim=True)
    expected = F.cross_entropy(network(g), torch.tensor([1, 1, 1, 1, 0, 0]))
    assert loss.loss(batch_of(inliers, outliers))["energy"].item() == pytest.approx(expected.item(), rel=1e-5)
    score = create_score("energy_logistic")
    loss.hand_over(score)
    said = network(inliers.logsumexp(-1, keepdim=True))
    torch.testing.assert_close(score(inliers, inliers), said[:, 0] - said[:, 1])


@pytest.mark.parametrize("link", ["linear", "mlp"])
def test_a_link_that_starts_positive_rises_with_a_slope_of_two(link: Any) -> None:
    loss = EnergyLogisticLoss(3, init="positive", energy="plain", link=link)
    with torch.no_grad():
        odds = loss.log_odds(torch.tensor([50.0, 51.0, 90.0]))
    assert odds.diff().tolist() == pytest.approx([2.0, 78.0], rel=1e-3)
    if loss.hidden is not None:  # and goes on rising, whatever it learns
        with torch.no_grad():
            loss.hidden[2].neg_()
            assert loss.log_odds(torch.tensor([50.0, 51.0])).diff().item() > 0


def fallen(link: Any = "linear") -> EnergyLogisticLoss:
    """A link that has learned outliers to have the larger log-sum-exp."""
    loss = EnergyLogisticLoss(3, init="random", energy="plain", link=link)
    with torch.no_grad():
        if loss.slope is not None:
            loss.slope.fill_(-1.0)
        elif loss.hidden is not None:
            loss.hidden[0].abs_()
            loss.hidden[2].abs_().neg_()
    loss.loss(batch_of(random(4, 3).float(), 9 + random(4, 3).float()))
    return loss


@pytest.mark.parametrize("link", ["linear", "mlp"])
def test_a_falling_link_takes_the_place_of_the_raw_energy(link: Any, caplog: pytest.LogCaptureFixture) -> None:
    loss, logits = fallen(link), random(5, 3).float()
    taken = loss.takes_over(create_score("energy"))
    assert taken.name == "energy_logistic"
    torch.testing.assert_close(taken(logits, logits), -loss.log_odds(logits.logsumexp(-1)))
    assert len([r for r in caplog.records if "upside down" in r.message]) == 1


def test_other_scores_of_the_raw_energy_are_refused_under_a_falling_link() -> None:
    for name in ("max_logit", "react", "scale", "vim", "nnguide", "energy+knn", "vim+knn"):
        with pytest.raises(ConfigError, match=r"the learned link falls.*link_init='positive'"):
            fallen().takes_over(create_score(name))
    for name in ("knn", "energy_logistic"):
        score = create_score(name)
        assert fallen().takes_over(score) is score


def test_a_rising_link_or_one_that_never_learned_leaves_the_energy_alone() -> None:
    score = create_score("energy")
    rising = EnergyLogisticLoss(3)
    rising.loss(batch_of(9 + random(4, 3).float(), random(4, 3).float()))
    assert rising.takes_over(score) is score
    idle = EnergyLogisticLoss(3, weight=0.0)
    assert idle.slope is not None
    with torch.no_grad():
        idle.slope.neg_()
    idle.loss(batch_of(9 + random(4, 3).float(), random(4, 3).float()))
    assert idle.takes_over(score) is score


def test_outliers_that_are_not_ready_teach_the_link_nothing() -> None:
    """VOS's queue is still filling: neither the link's start nor its memory is of such a step."""
    loss = EnergyLogisticLoss(3, init="positive", energy="plain", centred=True)
    before, (near, far) = loss.offset.clone(), (random(5, 3).float() + 7, random(5, 3).float())
    step = {"labels": torch.zeros(5, dtype=torch.int64)}
    waiting = Batch(Outputs(near, near, None), outliers=Outputs(far, far, None), ready=torch.tensor(False), **step)
    loss.loss(waiting)
    assert loss.offset.equal(before)
    assert loss.means.isnan().all()
    loss.loss(dataclasses.replace(waiting, ready=torch.tensor(True)))
    assert loss.log_odds(near.logsumexp(-1)).mean().item() == pytest.approx(0, abs=1e-5)
    assert not loss.means.isnan().any()
