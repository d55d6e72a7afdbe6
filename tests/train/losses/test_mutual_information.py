"""CLUB: against its definition, against the information of Gaussian pairs, and what pairing and q's training decide."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from tests.references import club as reference
from train.losses.base import Batch
from train.losses.mutual_information import (
    GaussianConditional,
    MutualInformationLoss,
    boundary_conditional,
    club_bound,
    gaussian_loss,
    latent_conditional,
)
from train.outliers.base import PrepareContext
from train.outliers.features.outlier_bank import OutlierBank

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def correlated(n: int, dimensions: int, correlation: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    u = random(n, dimensions, seed=seed)
    return u, correlation * u + (1 - correlation**2) ** 0.5 * random(n, dimensions, seed=seed + 100)


def context(features: int) -> PrepareContext:
    module: Any = SimpleNamespace(classifier=SimpleNamespace(num_features=features))
    return PrepareContext(module, None, Path(), 0, CPU)  # type: ignore[arg-type]  # no images are looked at


def batch_of(features: Tensor, labels: Tensor, seed: int = 0) -> Batch:
    none = Outputs(features[:0], features[:0], None)
    generator = torch.Generator().manual_seed(seed)
    return Batch(Outputs(features, features, None), labels, none, generator=generator)


def small(inputs: int, outputs: int) -> GaussianConditional:
    return GaussianConditional(inputs, outputs, (8,), (8,))


def wide(inputs: int, outputs: int) -> GaussianConditional:
    return GaussianConditional(inputs, outputs, (32,), (32,))


def bound_of(q: GaussianConditional, u: Tensor, features: Tensor) -> Tensor:
    mean, log_variance = q(u)
    return club_bound(mean, log_variance, features)


def loss_of(q: GaussianConditional, u: Tensor, features: Tensor) -> float:
    mean, log_variance = q(u)
    return gaussian_loss(mean, log_variance, features).item()


# ------------------------------------------------------------------------------------------------- the bound itself


def test_the_bound_is_its_definition_and_log_variances_cancel() -> None:
    mean, log_variance, features = (random(6, 3, seed=s) for s in range(3))
    expected = reference.club(mean.numpy(), log_variance.numpy(), features.numpy())
    assert club_bound(mean, log_variance, features).item() == pytest.approx(expected, rel=1e-10)


def test_a_pair_is_among_its_own_others() -> None:
    """Of two pairs the negative sum is half the pair itself: without j = i the bound would be twice as large."""
    mean, log_variance, features = random(2, 3), random(2, 3, seed=1).tanh(), random(2, 3, seed=2)
    without = 0.0
    for i, j in ((0, 1), (1, 0)):
        other = (mean[i] - features[j]).square() - (mean[i] - features[i]).square()
        without += float((other / (2 * log_variance[i].exp())).sum()) / 2
    assert club_bound(mean, log_variance, features).item() == pytest.approx(without / 2)


def test_its_gradient_is_the_definitions() -> None:
    arguments = tuple(random(4, 3, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(club_bound, arguments)


def test_with_the_true_conditional_it_is_above_the_information_of_a_gaussian_pair() -> None:
    """Analytically D rho^2 / (1 - rho^2), at least -D / 2 log(1 - rho^2), and equal at independence."""
    for correlation in (0.0, 0.3, 0.6, 0.9):
        u, f = correlated(20_000, 4, correlation)
        spread = torch.full_like(u, 1 - correlation**2)
        bound = club_bound(correlation * u, spread.log(), f).item()
        information = reference.gaussian_information(correlation, 4)
        assert bound == pytest.approx(4 * correlation**2 / (1 - correlation**2), rel=0.05, abs=0.02)
        assert bound > information - 0.02
    assert bound > 1.5 * information


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.75])
def test_with_a_q_fitted_by_its_own_optimizer_it_is_above_the_information(correlation: float) -> None:
    """The regulariser alone, on fixed pairs: its q finds the conditional, and the term is a bound on held-out pairs."""
    u, f = (x.float() for x in correlated(2000, 4, correlation))
    bank = OutlierBank(u, torch.arange(2000), 2000)  # every pair a class of its own: "class" draws its very outlier
    loss = MutualInformationLoss("mi", lambda _: bank, wide, 1.0, q_lr=1e-2)
    loss.prepare(context(4))
    for step in range(30):
        loss.loss(batch_of(f, torch.arange(2000), seed=step))
    held_u, held_f = (x.float() for x in correlated(4000, 4, correlation, seed=7))
    assert loss.q is not None
    with torch.no_grad():
        bound = float(bound_of(loss.q, held_u, held_f))
    information = reference.gaussian_information(correlation, 4)
    exact = 4 * correlation**2 / (1 - correlation**2)
    assert bound > information - 0.05
    assert bound == pytest.approx(exact, rel=0.2, abs=0.1)


def test_the_likelihood_loss_is_twice_the_negative_log_likelihood() -> None:
    mean, log_variance, features = (random(6, 3, seed=s) for s in range(3))
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    constant = 3 * np.log(2 * np.pi)
    expected = -2 * q.log_prob(features).sum(-1).mean().item() - constant
    assert gaussian_loss(mean, log_variance, features).item() == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------- pairing


def test_over_all_random_pairings_the_bound_and_its_gradient_are_zero() -> None:
    """What a step with random pairs sees of the features is noise: the average over all 5! pairings is 0."""
    features = random(5, 3).requires_grad_()
    u = random(5, 2, seed=1)
    torch.manual_seed(0)
    q = small(2, 3).double()
    mean, log_variance = (part.detach() for part in q(u))
    pairings = list(itertools.permutations(range(5)))
    each = [club_bound(mean[list(p)], log_variance[list(p)], features) for p in pairings]
    gradients = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in each]
    values = torch.stack(each)
    assert values.abs().max() > 0.05  # one pairing says something
    assert torch.stack(gradients).abs().amax() > 0.01
    assert values.mean().abs() < 1e-12
    assert torch.stack(gradients).mean(0).abs().max() < 1e-12


def test_pairs_of_a_class_have_a_gradient_in_expectation() -> None:
    """Features and outliers that are both their class: over all pairings within the classes nothing cancels."""
    labels = torch.tensor([0, 0, 1, 1])
    features = (labels[:, None].double() + 0.1 * random(4, 2)).requires_grad_()
    u = labels.double()[:, None]
    mean, log_variance = u.expand(-1, 2), torch.zeros(4, 2, dtype=torch.float64)
    within = [[*a, *b] for a in ((0, 1), (1, 0)) for b in ((2, 3), (3, 2))]
    average = torch.stack([club_bound(mean[p], log_variance[p], features) for p in within]).mean()
    gradient = torch.autograd.grad(average, features)[0]
    assert average > 0.4  # sum_d 0.25: half of the squared distance of the two classes' means over two dimensions
    assert gradient.abs().min() > 0.1


# ------------------------------------------------------------------------------------------------- the regulariser


def prepared(**options: Any) -> MutualInformationLoss:
    vectors, classes = random(40, 5).float(), torch.arange(40) % 4
    loss = MutualInformationLoss("mi", lambda _: OutlierBank(vectors, classes, 4), small, 0.5, **options)
    loss.prepare(context(3))
    return loss


def state(loss: MutualInformationLoss) -> list[Tensor]:
    return [p.detach().clone() for p in loss.parameters()]


def test_by_likelihood_q_takes_its_own_steps_and_the_network_sees_it_frozen() -> None:
    loss = prepared(q_steps=3)
    features, labels = random(12, 3, seed=4).float().requires_grad_(), torch.arange(12) % 4
    before = state(loss)
    terms = loss.loss(batch_of(features, labels))
    moved = state(loss)
    assert all(not b.equal(m) for b, m in zip(before, moved, strict=True))
    assert features.grad is None  # of maximum likelihood nothing reaches the network
    terms["mi"].backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())
    (optimizer,) = loss.optimizers().values()
    optimizer.step()  # as the loop does
    assert all(m.equal(p) for m, p in zip(moved, loss.parameters(), strict=True))
    assert {int(s["step"]) for s in optimizer.state.values()} == {3}


def test_by_likelihood_q_becomes_likelier() -> None:
    loss = prepared(q_steps=20, q_lr=1e-2)
    labels = torch.arange(40) % 4
    features = labels[:, None].float().expand(-1, 3) + 0.1 * random(40, 3, seed=4).float()
    assert loss.q is not None
    u = random(40, 5).float()  # the bank's own
    before = loss_of(loss.q, u, features)
    for seed in range(10):
        loss.loss(batch_of(features, labels, seed))
    assert loss_of(loss.q, u, features) < before - 0.5


def test_jointly_q_descends_on_the_bound_with_the_classifiers_optimizer() -> None:
    loss = prepared(q_update="joint")
    assert not loss.optimizers()
    features, labels = random(12, 3, seed=4).float().requires_grad_(), torch.arange(12) % 4
    before = state(loss)
    loss.loss(batch_of(features, labels))["mi"].backward()
    assert all(b.equal(p) for b, p in zip(before, state(loss), strict=True))
    assert all(p.grad is not None for p in loss.parameters())


def test_jointly_the_number_is_no_bound() -> None:
    """Of independent pairs the information is 0; descending on the bound itself takes it far below."""
    features = random(64, 3, seed=4).float()
    u = random(64, 5, seed=5).float()
    torch.manual_seed(0)
    q = boundary_conditional(5, 3)
    optimizer = torch.optim.SGD(q.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        bound = bound_of(q, u, features)
        bound.backward()
        optimizer.step()
    assert bound < -5


def test_weight_and_bfloat16_features() -> None:
    features, labels = random(12, 3, seed=4).float(), torch.arange(12) % 4
    one, half = prepared(), prepared()
    half.weight = 0.25
    value = one.loss(batch_of(features, labels))["mi"].item()
    assert half.loss(batch_of(features, labels))["mi"].item() == pytest.approx(value / 2, rel=1e-5)
    rounded = prepared().loss(batch_of(features.bfloat16(), labels))["mi"]
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(value, abs=0.05)


def test_the_published_networks() -> None:
    def layers(network: torch.nn.Module) -> list[Any]:
        found = [m for m in network.modules() if not list(m.children())]
        return [(m.in_features, m.out_features) if isinstance(m, torch.nn.Linear) else type(m).__name__ for m in found]

    first, second = boundary_conditional(768, 512), latent_conditional(64, 512)
    assert layers(first.mean) == [(768, 256), "ReLU", (256, 512)]
    assert layers(first.log_variance) == [(768, 256), "ReLU", (256, 512), "Tanh"]
    assert layers(second.mean) == [(64, 32), "ReLU", (32, 16), "ReLU", (16, 256), "ReLU", (256, 512)]
    assert layers(second.log_variance) == [(64, 256), "ReLU", (256, 512), "Tanh"]
