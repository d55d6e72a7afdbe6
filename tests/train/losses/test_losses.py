"""Each loss recomputed image by image from its definition, and its gradient by finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from guard.scores import create_score
from guard.scores.rejection import Rejection
from tests.composition import stages_of
from train.losses.base import Batch, Regulariser
from train.losses.energy_logistic import EnergyLogisticLoss
from train.losses.rejection_bce import RejectionLoss
from train.losses.uniform_target import UniformTargetLoss, uniform_target_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(inliers: Tensor, outliers: Tensor) -> Batch:
    """Logits (N, C) and (K, C) that are their own features."""
    labels = torch.zeros(len(inliers), dtype=torch.int64)
    return Batch(Outputs(inliers, inliers, None), labels, Outputs(outliers, outliers, None))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# ------------------------------------------------------------------------------------------------- uniform target


def test_uniform_target_is_the_cross_entropy_to_the_uniform_distribution() -> None:
    logits = 3 * random(5, 4)
    expected = 0.0
    for row in logits.numpy():
        p = np.exp(row) / np.exp(row).sum()
        expected += -sum(math.log(value) / 4 for value in p) / 5
    assert uniform_target_loss(logits).item() == pytest.approx(expected, rel=1e-12)


def test_uniform_target_is_least_at_equal_logits() -> None:
    assert uniform_target_loss(torch.full((3, 7), 2.5)).item() == pytest.approx(math.log(7))
    assert uniform_target_loss(random(3, 7)).item() > math.log(7)


def test_uniform_target_has_the_gradient_of_the_kl_divergence() -> None:
    """d/df_c of CE(U, p) is (p_c - 1/C) / K."""
    logits = random(5, 4).requires_grad_()
    uniform_target_loss(logits).backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - 0.25).detach() / 5)
    assert torch.autograd.gradcheck(uniform_target_loss, (random(5, 4).requires_grad_(),))


def test_uniform_target_weighs_the_outliers_alone() -> None:
    inliers, outliers = random(6, 4).float(), random(3, 4, seed=1).float()
    terms = UniformTargetLoss(0.5).loss(batch_of(inliers, outliers))
    assert list(terms) == ["uniform"]
    assert terms["uniform"].item() == pytest.approx(0.5 * uniform_target_loss(outliers).item())


def test_the_other_divergence_is_the_negative_entropy() -> None:
    """KL(p || U) by its definition; both are log C at uniform probabilities, and their least there."""
    inliers, outliers = random(6, 4).float(), 3 * random(3, 4, seed=1).float()
    p = outliers.double().softmax(-1)
    expected = (p * (p * 4).log()).sum(-1).mean() + math.log(4)
    term = UniformTargetLoss(0.5, "p_u").loss(batch_of(inliers, outliers))["uniform"]
    assert term.item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    even = UniformTargetLoss(1.0, "p_u").loss(batch_of(inliers, torch.zeros(2, 4)))["uniform"]
    assert even.item() == pytest.approx(math.log(4))


# ------------------------------------------------------------------------------------------------------ rejection


def test_rejection_is_binary_cross_entropy_with_outliers_as_one() -> None:
    torch.manual_seed(0)
    network = Rejection(hidden=8)
    network.build(3)
    inliers, outliers = random(4, 3).float(), random(2, 3, seed=1).float()
    terms = RejectionLoss(network).loss(batch_of(inliers, outliers))
    total = sum(-log_sigmoid(-x) for x in network(inliers, inliers).tolist())
    total += sum(-log_sigmoid(x) for x in network(outliers, outliers).tolist())
    assert list(terms) == ["rejection"]
    assert terms["rejection"].item() == pytest.approx(total / 6, rel=1e-5)


def test_rejection_owns_its_network_and_hands_it_over() -> None:
    network = Rejection(hidden=8)
    network.build(3)
    loss = RejectionLoss(network)
    assert len(list(loss.parameters())) == 4
    score = create_score("rejection", hidden=8)
    loss.hand_over(score)
    features = random(5, 3).float()
    assert score(features, features).equal(network(features, features))


def test_rejection_learns_on_coordinates_near_one_and_reads_features_as_they_are() -> None:
    torch.manual_seed(0)
    network = Rejection(hidden=8)
    network.build(16)
    inliers, outliers = (torch.nn.functional.normalize(random(4, 16, seed=i).float(), dim=-1) for i in range(2))
    loss, plain = RejectionLoss(network, unit_variance=True), RejectionLoss(network)
    large = plain.loss(batch_of(4 * inliers, 4 * outliers))  # sqrt 16 times a unit vector
    torch.testing.assert_close(loss.loss(batch_of(inliers, outliers)), large)
    loss.loss(batch_of(9 * inliers, outliers))
    score = create_score("rejection", hidden=8)
    loss.hand_over(score)
    torch.testing.assert_close(score(inliers, inliers), network(4 * inliers, inliers))
    assert torch.equal(network.mlp[0].weight * 4, score.mlp[0].weight)  # type: ignore[index, union-attr]
    again = RejectionLoss(network, unit_variance=True)
    again.load_state_dict(loss.state_dict())  # of a run that is resumed
    torch.testing.assert_close(
        again.loss(batch_of(9 * inliers, outliers)), plain.loss(batch_of(36 * inliers, 4 * outliers))
    )


@pytest.mark.slow
def test_a_network_beats_the_base_rate_on_unit_vectors_and_their_noise() -> None:
    """NPOS's task, 500 steps at its rate: 32 features of length 1, and noise around them, 25 times as many."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(8, 128, generator=generator), dim=-1)

    def unit(count: int) -> torch.Tensor:
        near = centres[torch.randint(8, (count,), generator=generator)] + 0.04 * torch.randn(
            count, 128, generator=generator
        )
        return torch.nn.functional.normalize(near, dim=-1)

    base_rate = -(32 / 832 * math.log(32 / 832) + 800 / 832 * math.log(800 / 832))
    last = {}
    for unit_variance in (False, True):
        torch.manual_seed(0)
        network = Rejection(hidden=128)
        network.build(128)
        loss = RejectionLoss(network, 0.1, unit_variance=unit_variance)
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.5, momentum=0.9, nesterov=True)
        seen = []
        for step in range(500):
            optimizer.param_groups[0]["lr"] = 0.25 * (1 + math.cos(math.pi * step / 500))
            noise = unit(4).repeat_interleave(200, 0) + 0.1 * torch.randn(800, 128, generator=generator)
            term = loss.loss(batch_of(unit(32), noise))["rejection"]
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
            seen.append(term.item() / 0.1)
        last[unit_variance] = sum(seen[-50:]) / 50
    assert last[True] < 0.75 * base_rate
    assert last[False] > 0.9 * base_rate


def test_a_link_starts_where_it_has_a_gradient() -> None:
    """Where the energies of the first images are: a g + b has mean 0 there, and stays where it learned to be."""
    for link in ("linear", "mlp"):
        loss = EnergyLogisticLoss(3, energy="plain", link=link, centred=True)  # type: ignore[arg-type]
        inliers, outliers = 2 * random(50, 3).float() + 7, random(2, 3, seed=1).float() + 7
        inliers.requires_grad_()
        loss.loss(batch_of(inliers, outliers))["energy"].backward()
        g = loss.energies(inliers)
        assert loss.log_odds(g).mean().item() == pytest.approx(0, abs=1e-4)
        assert inliers.grad is not None
        assert inliers.grad.sum(-1).abs().median() > 1e-4
        offset = loss.offset.item()
        loss.loss(batch_of(inliers + 3, outliers))
        assert loss.offset.item() == offset
    saturated = EnergyLogisticLoss(3)
    fresh = inliers.detach().requires_grad_()
    saturated.loss(batch_of(fresh, outliers))["energy"].backward()
    assert fresh.grad is not None
    assert fresh.grad.sum(-1).abs().median() < 1e-4
    (stage,) = stages_of("vos")
    assert stage.regularisers[0].centred  # type: ignore[attr-defined]
    (stage,) = stages_of("vos", link_init="random")
    assert not stage.regularisers[0].centred  # type: ignore[attr-defined]


def test_rejection_computes_in_float32_from_bfloat16_taps() -> None:
    network = Rejection(hidden=8)
    network.build(3)
    half = random(4, 3).bfloat16()
    terms = RejectionLoss(network).loss(batch_of(half, half))
    assert terms["rejection"].dtype == torch.float32


@pytest.mark.parametrize("loss", [UniformTargetLoss(), EnergyLogisticLoss(3)], ids=lambda loss: type(loss).__name__)
def test_losses_of_bfloat16_logits_are_float32(loss: Regulariser) -> None:
    half = random(4, 3).bfloat16()
    assert {value.dtype for value in loss.loss(batch_of(half, half)).values()} == {torch.float32}
