"""Points beyond the edge of a class: the definition, what counts as edge, and how far out they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references.naive_edge import naive_beyond_edge
from train.outliers.conditioning.edge import EdgeOptions, beyond_edge, beyond_edges, likeness


def features(count: int = 40, width: int = 6, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(width, generator=g) + 0.5 * torch.randn(count, width, generator=g)


@pytest.mark.parametrize("options", [{}, {"share": 0.5, "outward": 3, "step": 0.3}, {"share": 0.01}])
def test_they_are_those_of_the_definition(options: dict[str, Any]) -> None:
    given = features()
    asked = EdgeOptions(**options)
    expected = naive_beyond_edge(given.numpy(), asked.share, asked.outward, asked.step)
    found = beyond_edge(given, asked)
    assert len(found) == max(1, round(asked.share * 40)) * asked.outward
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_each_step_along_the_vector_is_farther_and_the_published_codes_hardly_moves() -> None:
    """That adds the length of the vector from the mean to every coordinate."""
    given = features(100, 20)
    mean = given.mean(0)
    found = beyond_edge(given, EdgeOptions()).unflatten(0, (-1, 5))
    distance = (found - mean).norm(dim=-1)
    torch.testing.assert_close(distance / distance[:, :1], torch.tensor([1.2, 1.4, 1.6, 1.8, 2.0]).expand(20, 5) / 1.2)
    cosines = F.cosine_similarity(found, mean[None, None], dim=-1)
    assert (cosines.diff(dim=1) < 0).all()
    edge = given[likeness(given, mean, "cosine").argsort()[:20]]
    published = naive_beyond_edge(given.numpy(), 0.2, 5, 3e-5, code=True)
    code = torch.from_numpy(published).unflatten(0, (-1, 5))
    moved = (code - edge[:, None]).norm(dim=-1) / (edge - mean).norm(dim=-1, keepdim=True)
    assert moved.max().item() == pytest.approx(5 * 3e-5 * 20**0.5, rel=0.02)


def test_classes_have_edges_of_their_own() -> None:
    first, second = features(10), features(30, seed=1)
    both = torch.cat([first, second])
    labels = torch.tensor([0] * 10 + [1] * 30)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    found = beyond_edges(both[order], labels[order], 2, EdgeOptions())
    assert torch.bincount(found.classes).tolist() == [2 * 5, 6 * 5]
    for c, own in enumerate((first, second)):
        expected = beyond_edge(own, EdgeOptions())
        distances = (found.data[found.classes == c][:, None] - expected).norm(dim=-1)
        assert distances.amin(1).max() < 1e-5


def test_mahalanobis_is_the_distance_under_the_shrunk_covariance() -> None:
    given = features(60, 4) * torch.tensor([5.0, 1.0, 1.0, 0.1])
    mean = given.mean(0)
    covariance = np.cov(given.double().numpy().T)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 4 * np.eye(4)
    centred = (given - mean).double().numpy()
    expected = [-float(d @ np.linalg.inv(shrunk) @ d) for d in centred]
    np.testing.assert_allclose(likeness(given, mean, "mahalanobis").numpy(), expected, rtol=1e-4)
    by = {name: beyond_edge(given, EdgeOptions(by=name)) for name in ("cosine", "mahalanobis")}  # type: ignore[arg-type]
    assert not by["cosine"].equal(by["mahalanobis"])


@pytest.mark.parametrize("by", ["cosine", "mahalanobis"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_classes_have_an_edge_and_nothing_is_infinite(count: int, by: Any) -> None:
    """Without shrinkage, fewer features than coordinates are all equally far."""
    given = features(count, 12)
    found = beyond_edge(given, EdgeOptions(by=by))
    assert found.shape == (5, 12)
    assert found.isfinite().all()
    if count == 5 and by == "mahalanobis":
        assert likeness(given, given.mean(0), by).std() > 0.02
