"""Low-density points of class Gaussians against the naive way: many draws, and a sort by scipy's log density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, multivariate_normal
from torch import Tensor

from guard.errors import ConfigError
from train.outliers.conditioning.low_density import ClassGaussians, LowDensityOptions


def vectors(n: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    shapes = rng.standard_normal((classes, width, width))
    x = np.einsum("nd,nde->ne", rng.standard_normal((n, width)), shapes[labels]) + 5 * labels[:, None]
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def gaussians(x: Tensor, y: Tensor, classes: int, **options: float) -> ClassGaussians:
    return ClassGaussians(x, y, classes, LowDensityOptions(**options))  # type: ignore[arg-type]


def drawn(made: ClassGaussians, classes: Tensor, seed: int = 1) -> Tensor:
    return made.sample(classes, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_with_one_draw_it_is_the_gaussian(ridge: float) -> None:
    x, y = vectors(300, 4, 2)
    made = gaussians(x, y, 2, draws=1, keep=1, ridge=ridge)
    for c in range(2):
        points = drawn(made, torch.full((40_000,), c)).double().numpy()
        mine = x[y == c].double().numpy()
        covariance = np.cov(mine.T, bias=True) + ridge * np.eye(4)  # divided by n_y, as in the paper
        np.testing.assert_allclose(points.mean(0), mine.mean(0), atol=0.06)
        np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.04 * np.abs(covariance).max())
        factor = made.factors[c].double().numpy()
        np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-4, atol=1e-4)


def test_points_have_the_law_of_the_least_likely_of_many_draws() -> None:
    width, draws, keep = 3, 50, 4
    x, y = vectors(200, width, 1)
    made = gaussians(x, y, 1, draws=draws, keep=keep, ridge=1e-3)
    mean = x.double().numpy().mean(0)
    normal = multivariate_normal(mean, np.cov(x.double().numpy().T, bias=True) + 1e-3 * np.eye(width))
    rng = np.random.default_rng(3)
    naive = []
    for _ in range(1000):
        points = normal.rvs(draws, random_state=rng)
        naive.append(points[np.argsort(normal.logpdf(points))[rng.integers(keep)]])
    slow, fast = np.stack(naive), drawn(made, torch.zeros(1000, dtype=torch.int64)).double().numpy()
    assert ks_2samp(normal.logpdf(slow), normal.logpdf(fast)).pvalue > 0.01
    for i in range(width):
        assert ks_2samp(slow[:, i], fast[:, i]).pvalue > 0.01
    typical = normal.rvs(1000, random_state=rng)
    assert normal.logpdf(fast).max() < np.median(normal.logpdf(typical))


def test_directions_without_data_have_the_ridge_alone() -> None:
    """5 points in 12 dimensions: rank 4."""
    x, y = vectors(5, 12, 1)
    made = gaussians(x, y, 1, draws=1, keep=1, ridge=1e-2)
    points = drawn(made, torch.zeros(20_000, dtype=torch.int64)).double() - x.double().mean(0)
    _, _, directions = torch.linalg.svd(x.double() - x.double().mean(0))
    along = points @ directions.T
    np.testing.assert_allclose(along[:, 4:].var(0).numpy(), 1e-2, rtol=0.05)
    assert along[:, :4].var(0).min() > 1e-2
    assert points.isfinite().all()


def test_without_a_ridge_points_stay_in_the_span_of_the_data() -> None:
    x, y = vectors(5, 12, 1)
    points = drawn(gaussians(x, y, 1, ridge=0.0), torch.zeros(50, dtype=torch.int64)).double() - x.double().mean(0)
    _, _, directions = torch.linalg.svd(x.double() - x.double().mean(0))
    assert (points @ directions[4:].T).abs().max() < 1e-3
    assert points.isfinite().all()


def test_every_point_is_of_its_own_class_and_the_seeds() -> None:
    x, y = vectors(300, 4, 3)
    made = gaussians(x, y, 3, draws=100, keep=5)
    classes = torch.tensor([2, 0, 1, 1, 0, 2] * 5)
    points = drawn(made, classes)
    assert points.equal(drawn(made, classes))
    assert not points.equal(drawn(made, classes, seed=2))
    for point, c in zip(points.double().numpy(), classes.tolist(), strict=True):
        mine = x[y == c].double().numpy()
        normal = multivariate_normal(mine.mean(0), np.cov(mine.T, bias=True) + 1e-5 * np.eye(4))
        radius = np.sqrt((point - mine.mean(0)) @ np.linalg.solve(normal.cov, point - mine.mean(0)))
        assert 2.5 < radius < 7  # the 5 % least likely of chi(4)


def test_low_density_is_hardly_out_in_many_dimensions() -> None:
    """NCIS: in 768 dimensions the 10 lowest of 3,330 draws are 7-8 % farther out than typical."""
    x = torch.zeros(2, 768)
    points = drawn(gaussians(x, torch.zeros(2, dtype=torch.int64), 1, ridge=1.0), torch.zeros(300, dtype=torch.int64))
    assert 1.065 < float(points.norm(dim=-1).mean()) / 768**0.5 < 1.085


def test_a_class_without_embeddings_is_named() -> None:
    x, y = vectors(20, 4, 2)
    with pytest.raises(ConfigError, match="class 2 has no embedding"):
        gaussians(x, y, 3)
