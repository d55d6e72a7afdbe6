"""The supervised contrastive loss against a double loop, by hand, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from tests.references.supcon import naive_supcon
from train.losses.base import Batch
from train.losses.supcon import SupConLoss, projector, supcon_loss


def features(n: int, width: int = 5, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 0, 1, 2, 2, 2, 0],
        [0, 0, 0, 1, 2, 3, 4, 5],  # most have no partner
        [0, -1, 0, 1, -1, 1, -1, 2],  # some do not count
        [0, 1, 2, 3, 4, 5, 6, 7],  # none has a partner
    ],
)
def test_it_is_the_definition(labels: list[int], temperature: float) -> None:
    h, y = features(8), torch.tensor(labels)
    found = supcon_loss(h, y, temperature).item()
    assert found == pytest.approx(naive_supcon(h.double().numpy(), np.array(labels), temperature), rel=1e-4, abs=1e-6)


def test_by_hand() -> None:
    """Two orthogonal pairs: the partner has cosine 1, the two others 0."""
    h = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    expected = -math.log(math.e**2 / (math.e**2 + 2))
    assert supcon_loss(h, torch.tensor([0, 0, 1, 1]), 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_lengths_do_not_count_and_order_does_not_either() -> None:
    h, y = features(8), torch.tensor([0, 1, 0, 1, 2, 2, -1, 0])
    scaled = h * torch.linspace(0.1, 30, 8)[:, None]
    turned = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for other in (supcon_loss(scaled, y), supcon_loss(h[turned], y[turned])):
        torch.testing.assert_close(other, supcon_loss(h, y))


def test_items_that_do_not_count_are_as_if_absent() -> None:
    h, y = features(8), torch.tensor([0, -1, 0, 1, -1, 1, -1, 2])
    torch.testing.assert_close(supcon_loss(h, y), supcon_loss(h[y >= 0], y[y >= 0]))


@pytest.mark.parametrize("labels", [[0], [-1, -1, -1], [0, -1, -1], [0, 1, 2], [3, 3]])
def test_nothing_to_pull_is_zero_and_has_a_finite_gradient(labels: list[int]) -> None:
    h = features(len(labels)).requires_grad_()
    loss = supcon_loss(h, torch.tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert h.grad is not None
    assert h.grad.isfinite().all()


def test_far_apart_and_close_together_stay_finite() -> None:
    h = torch.tensor([[1.0, 0.0], [-1.0, 1e-4], [1.0, 1e-6], [1e-8, 0.0]]).requires_grad_()
    loss = supcon_loss(h, torch.tensor([0, 0, 1, 1]), 1e-3)  # exp(2000) would overflow
    loss.backward()
    assert loss.isfinite()
    assert h.grad is not None
    assert h.grad.isfinite().all()


def test_gradients_agree_with_finite_differences() -> None:
    y = torch.tensor([0, 1, 0, -1, 1, 2])
    h = features(6).requires_grad_()
    (gradient,) = torch.autograd.grad(supcon_loss(h, y, 0.5), h)
    step = 1e-4
    for i in range(6):
        for j in range(5):
            moved = [h.detach().double().numpy().copy() for _ in range(2)]
            moved[0][i, j] += step
            moved[1][i, j] -= step
            up, down = (naive_supcon(m, y.numpy(), 0.5) for m in moved)
            assert gradient[i, j].item() == pytest.approx((up - down) / (2 * step), abs=1e-4)


def test_real_and_auxiliary_images_of_a_class_pull_each_other() -> None:
    """The public copy of ATOL shifts the auxiliary labels; then the two domains of a class push each other apart."""
    inside, outside = features(3).requires_grad_(), features(4, seed=1).requires_grad_()
    labels, auxiliary = torch.tensor([0, 1, 2]), torch.tensor([0, 1, -1, -1])
    batch = Batch(Outputs(inside, inside, None), labels, Outputs(outside, outside, None), auxiliary)
    terms = SupConLoss(2.0).loss(batch)
    assert list(terms) == ["supcon"]
    both, classes = torch.cat([inside, outside]), torch.cat([labels, auxiliary])
    assert terms["supcon"].item() == pytest.approx(2 * supcon_loss(both, classes).item(), rel=1e-6)
    terms["supcon"].backward()
    assert inside.grad is not None
    assert outside.grad is not None
    # a step down turns the auxiliary image of class 0 towards the real one
    turned = outside[0] - 1e-3 * outside.grad[0]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(turned, inside[0], 0) > cosine(outside[0], inside[0], 0)
    assert (outside.grad[2:] == 0).all()


def test_without_auxiliary_images_the_real_ones_are_compared() -> None:
    inside = features(6)
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    batch = Batch(Outputs(inside, inside, None), labels, Outputs(features(3, seed=1), features(3, seed=1), None))
    assert SupConLoss().loss(batch)["supcon"].item() == pytest.approx(supcon_loss(inside, labels).item())


def test_outliers_can_be_one_more_class() -> None:
    inside, outside = features(4), features(4, seed=1)
    batch = Batch(
        Outputs(inside, inside[:, :3], None), torch.tensor([0, 1, 0, 2]), Outputs(outside, outside[:, :3], None)
    )
    found = SupConLoss(2.0, 0.1, outlier_class=True).loss(batch)["supcon"].item()
    labels = np.array([0, 1, 0, 2, 3, 3, 3, 3])
    expected = naive_supcon(torch.cat([inside, outside]).double().numpy(), labels, 0.1)
    assert found == pytest.approx(2 * expected, rel=1e-4)
    some = Batch(batch.inliers, batch.labels, batch.outliers, torch.tensor([1, -1, -1, 0]))
    found = SupConLoss(1.0, 0.1, outlier_class=True).loss(some)["supcon"].item()
    labels = np.array([0, 1, 0, 2, 1, 3, 3, 0])
    expected = naive_supcon(torch.cat([inside, outside]).double().numpy(), labels, 0.1)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_projector_is_learned_and_compares_in_place_of_the_features() -> None:
    torch.manual_seed(0)
    project = projector(5, 7)
    inside, labels = features(6), torch.tensor([0, 1, 0, 1, 2, 2])
    batch = Batch(Outputs(inside, inside, None), labels, Outputs(features(0), features(0), None))
    loss = SupConLoss(1.0, 0.5, project=project)
    found = loss.loss(batch)["supcon"]
    assert found.item() == pytest.approx(supcon_loss(project(inside), labels, 0.5).item(), rel=1e-5)
    found.backward()
    assert {name for name, p in loss.named_parameters() if p.grad is not None} == {
        name for name, _ in loss.named_parameters()
    }
