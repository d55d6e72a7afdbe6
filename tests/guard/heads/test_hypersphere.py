"""Projection, prototypes and both terms of the hypersphere head against the slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.heads import HypersphereHead, unit
from guard.heads.hypersphere import dispersion, moved
from tests.references import heads as slow

C, D = 4, 6


def sphere(rows: int, seed: int, width: int = D) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return unit(torch.randn(rows, width, generator=g, dtype=torch.float64))


def test_prototypes_move_as_defined_and_absent_classes_stay() -> None:
    prototypes, z, labels = sphere(C, 0), sphere(9, 1), torch.tensor([0, 0, 0, 2, 2, 0, 1, 0, 0])
    after = moved(prototypes, z, labels, 0.95)
    np.testing.assert_allclose(after, slow.moved(prototypes.numpy(), z.numpy(), labels.numpy(), 0.95), rtol=1e-12)
    torch.testing.assert_close(after[3], prototypes[3])
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(moved(prototypes, z[shuffled], labels[shuffled], 0.95), after)


def test_one_step_goes_as_far_as_the_authors_loop_over_images() -> None:
    """Around a class's direction, as in training: the two end closer together than either is to its start."""
    prototypes, labels = sphere(C, 0), torch.arange(32) % C
    z = unit(sphere(C, 5)[labels] + 0.4 * sphere(32, 6))
    ours = moved(prototypes, z, labels, 0.95)
    theirs = torch.from_numpy(slow.moved_one_by_one(prototypes.numpy(), z.numpy(), labels.numpy(), 0.95))
    assert ((ours * theirs).sum(-1) > 0.985).all()
    assert ((theirs * prototypes).sum(-1) < 0.98).all()


@pytest.mark.parametrize("temperature", [0.1, 0.01, 0.005, 1e-4])
def test_dispersion_has_a_value_and_a_gradient_at_any_temperature(temperature: float) -> None:
    prototypes = sphere(C, 3).float().requires_grad_()
    value = dispersion(prototypes, temperature)
    value.backward()
    assert prototypes.grad is not None
    assert prototypes.grad.isfinite().all()
    rows = prototypes.detach().double().numpy() @ prototypes.detach().double().numpy().T / temperature
    others = [np.delete(row, i) for i, row in enumerate(rows)]
    expected = np.mean([row.max() + np.log(np.mean(np.exp(row - row.max()))) for row in others])
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_dispersion_and_its_gradient() -> None:
    prototypes = sphere(C, 3).requires_grad_()
    value = dispersion(prototypes, 0.1)
    value.backward()
    at = prototypes.detach().numpy()
    assert float(value.detach()) == pytest.approx(slow.dispersion(at, 0.1), rel=1e-9)
    np.testing.assert_allclose(
        prototypes.grad, slow.slopes(lambda p: slow.dispersion(p, 0.1), at), rtol=1e-5, atol=1e-7
    )


def test_the_loss_moves_the_prototypes_first_and_takes_them_as_constants_for_compactness() -> None:
    head = HypersphereHead(5, C, dim=D, momentum=0.95).double()
    z, labels, before = sphere(12, 4).requires_grad_(), torch.arange(12) % C, head.prototypes.numpy().copy()
    terms = head.loss(z, head(z), labels)
    zs, ys = z.detach().numpy(), labels.numpy()
    after = slow.moved(before, zs, ys, 0.95)
    np.testing.assert_allclose(head.prototypes, after, rtol=1e-9)
    assert float(terms["compactness"].detach()) == pytest.approx(slow.compactness(after, zs, ys, 0.1), rel=1e-9)
    assert float(terms["dispersion"].detach()) == pytest.approx(0.5 * slow.dispersion(after, 0.1), rel=1e-9)
    # the loss normalises its features again (autocast rounds them), so the slopes are along the sphere

    def along(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    (gradient,) = torch.autograd.grad(terms["compactness"], z, retain_graph=True)
    expected = slow.slopes(lambda x: slow.compactness(after, along(x), ys, 0.1), zs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(terms["dispersion"], z)
    expected = slow.slopes(lambda x: 0.5 * slow.dispersion(slow.moved(before, along(x), ys, 0.95), 0.1), zs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(expected).max() > 1e-3


def test_the_dispersion_reaches_the_projection() -> None:
    torch.manual_seed(0)
    head, pooled = HypersphereHead(5, C), torch.randn(16, 5)
    z = head.embed(pooled)
    head.loss(z, head(z), torch.arange(16) % C)["dispersion"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.projection.parameters())


def test_features_lie_on_the_sphere_and_logits_are_scaled_cosines_to_the_prototypes() -> None:
    torch.manual_seed(0)
    head = HypersphereHead(20, C).eval()
    z = head.embed(10 * torch.randn(30, 20))
    assert z.shape == (30, 128) == (30, head.num_features)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(30))
    torch.testing.assert_close(head(z), 10 * z @ head.prototypes.T)
    with torch.no_grad():
        head.prototypes.mul_(0.5)  # an average of unit vectors is shorter
    torch.testing.assert_close(head(z), 20 * z @ head.prototypes.T)
    last = head.last_layer()
    torch.testing.assert_close(z @ last.weight.T, head(z))
    assert (last.bias, last.scale) == (None, None)
