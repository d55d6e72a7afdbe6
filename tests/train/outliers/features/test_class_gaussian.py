"""The fast sampler has the law of the published one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
import torch

from tests.composition import stages_of
from tests.references.naive_vos import least_likely
from train.outliers.base import IDBatch
from train.outliers.features.class_gaussian import ClassGaussian, largest_radii, radius_table

NOTHING = IDBatch(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
REPEATS, DRAWS, WIDTH = 400, 200, 6


def correlated(width: int) -> np.ndarray:
    """A covariance with condition number of about 100 and strong correlations."""
    random = np.random.default_rng(7)
    axes, _ = np.linalg.qr(random.normal(size=(width, width)))
    return axes @ np.diag(np.geomspace(0.1, 10, width)) @ axes.T


@pytest.fixture(scope="module")
def gaussian() -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-3, 3, WIDTH), correlated(WIDTH)


def whitened(rows: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.linalg.solve(np.linalg.cholesky(covariance), (rows - mean).T).T


def sampler(mean: np.ndarray, covariance: np.ndarray, select: int) -> ClassGaussian:
    """A synthesiser whose statistics are exactly these: one class at `mean`, one at -`mean`."""
    made = ClassGaussian(2, WIDTH, queue=2, draws=DRAWS, select=select, jitter=1e-9)
    made.queue.pushed.fill_(2)
    centres = torch.from_numpy(np.stack([mean, -mean]))
    made.queue.class_sum.copy_(2 * centres)
    made.queue.second_moment.copy_(2 * centres.T @ centres + 4 * torch.from_numpy(covariance))
    return made


def drawn(mean: np.ndarray, covariance: np.ndarray, select: int) -> np.ndarray:
    """(REPEATS, select, D): what the fast sampler gives for the first class."""
    made, generator = sampler(mean, covariance, select), torch.Generator().manual_seed(0)
    rows = [made.sample(NOTHING, generator).data.reshape(2, select, WIDTH)[0] for _ in range(REPEATS)]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("select", [1, 3])
def test_radii_have_the_law_of_really_drawing(gaussian: tuple[np.ndarray, np.ndarray], select: int) -> None:
    mean, covariance = gaussian
    random = np.random.default_rng(1)
    naive = np.stack([least_likely(mean, covariance, DRAWS, select, random) for _ in range(REPEATS)])
    fast = drawn(mean, covariance, select)

    def radii(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(whitened(rows.reshape(-1, WIDTH), mean, covariance), axis=1).reshape(REPEATS, select)

    ours, theirs = radii(fast), radii(naive)
    for j in range(select):  # the j-th least likely, each by itself, and (below) how they go together
        assert scipy.stats.ks_2samp(ours[:, j], theirs[:, j]).pvalue > 1e-3
    for j in range(select - 1):
        gaps = ours[:, j] - ours[:, j + 1], theirs[:, j] - theirs[:, j + 1]
        assert (gaps[0] >= 0).all()
        assert scipy.stats.ks_2samp(*gaps).pvalue > 1e-3


def test_all_of_few_draws_are_the_sorted_draws() -> None:
    """n = select = 3: where the order statistics' spacings differ most from those of many draws."""
    ours = largest_radii(radius_table(WIDTH), 3, 3, 4000, torch.Generator().manual_seed(0)).numpy()
    theirs = np.sqrt(np.sort(np.random.default_rng(0).chisquare(WIDTH, (4000, 3)))[:, ::-1])
    for j in range(3):
        assert scipy.stats.ks_2samp(ours[:, j], theirs[:, j]).pvalue > 1e-3


def test_the_test_of_the_law_can_fail(gaussian: tuple[np.ndarray, np.ndarray]) -> None:
    """400 radii tell the largest of 200 from the largest of 300."""
    table, g = radius_table(WIDTH), torch.Generator().manual_seed(0)
    some = [largest_radii(table, n, 1, REPEATS, g)[:, 0].numpy() for n in (200, 300)]
    assert scipy.stats.ks_2samp(*some).pvalue < 1e-3


@pytest.mark.parametrize("select", [1, 3])
def test_directions_are_uniform_and_do_not_depend_on_the_radius(
    gaussian: tuple[np.ndarray, np.ndarray], select: int
) -> None:
    mean, covariance = gaussian
    z = whitened(drawn(mean, covariance, select).reshape(-1, WIDTH), mean, covariance)
    radius = np.linalg.norm(z, axis=1)
    direction = z / radius[:, None]
    n = len(z)
    # uniform on the sphere: each coordinate has mean 0 and variance 1/D, its square is Beta(1/2, (D - 1)/2)
    assert (np.abs(direction.mean(0)) < 4 / np.sqrt(n * WIDTH)).all()
    for axis in range(WIDTH):
        law = scipy.stats.beta(0.5, (WIDTH - 1) / 2)
        assert scipy.stats.kstest(direction[:, axis] ** 2, law.cdf).pvalue > 1e-4
    assert abs(scipy.stats.spearmanr(radius, direction[:, 0]).statistic) < 4 / np.sqrt(n)


def test_outliers_lie_around_their_own_class_in_the_shape_of_sigma(gaussian: tuple[np.ndarray, np.ndarray]) -> None:
    mean, covariance = gaussian
    made, generator = sampler(mean, covariance, 1), torch.Generator().manual_seed(2)
    rows = torch.stack([made.sample(NOTHING, generator).data for _ in range(3000)]).double().numpy()  # (3000, 2, D)
    for label, centre in enumerate((mean, -mean)):
        found = np.cov(rows[:, label].T, bias=True)
        scale = np.trace(found) / np.trace(covariance)  # E r^2 / D
        np.testing.assert_allclose(found / scale, covariance, atol=0.06 * covariance.diagonal().max())
        spread = np.sqrt(found.diagonal() / len(rows))
        assert (np.abs(rows[:, label].mean(0) - centre) < 4 * spread).all()


@contextlib.contextmanager
def spacings(monkeypatch: pytest.MonkeyPatch, values: torch.Tensor) -> Iterator[None]:
    """Exponential draws that are not drawn."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "exponential_", lambda self, generator=None: self.copy_(values))
        yield


@pytest.mark.parametrize("dimensions", [1, 2, 64, 128, 512, 2048])
def test_the_table_interpolates_scipys_quantiles(dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over every quantile that the largest of up to 1e6 draws takes in 1e9 steps."""
    w = np.geomspace(1e-15, 20, 4001)
    law = scipy.stats.chi2(dimensions)
    expected = np.sqrt(np.where(w < 1, law.isf(-np.expm1(-w)), law.ppf(np.exp(-w))))
    table = radius_table(dimensions).float()
    with spacings(monkeypatch, torch.from_numpy(w).float()[:, None]):
        found = largest_radii(table, 1, 1, len(w), torch.Generator())[:, 0].double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.sqrt(dimensions))


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e3])
def test_extreme_spacings_stay_finite(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with spacings(monkeypatch, torch.full((3, 2), value)):
        assert largest_radii(radius_table(64).float(), 10_000, 2, 3, torch.Generator()).isfinite().all()


def test_it_is_ready_when_every_queue_is_full() -> None:
    made, generator = ClassGaussian(2, 3, queue=4, draws=100, select=1), torch.Generator().manual_seed(0)
    early = made.sample(NOTHING, generator)
    assert early.data.isfinite().all()  # of an empty queue
    assert not early.ready
    made.observe(torch.randn(7, 3), torch.tensor([0, 0, 0, 0, 1, 1, 1]))
    assert not made.sample(NOTHING, generator).ready
    made.observe(torch.randn(1, 3), torch.tensor([1]))
    assert made.sample(NOTHING, generator).ready


def test_features_that_never_vary_have_an_invertible_covariance() -> None:
    made, generator = ClassGaussian(2, 8, queue=5, draws=1000, select=2), torch.Generator().manual_seed(0)
    made.observe(torch.ones(10, 8), torch.arange(10) % 2)
    outliers = made.sample(NOTHING, generator).data
    assert outliers.shape == (4, 8)
    radii = (outliers - 1).norm(dim=-1) / 0.01  # Sigma is the jitter alone, 1e-4 I
    assert (radii > scipy.stats.chi(8).ppf(0.99)).all()
    assert (radii < 8).all()


def test_select_is_at_most_the_draws_and_one_seed_gives_one_sample() -> None:
    made = ClassGaussian(3, 4, queue=2, draws=2, select=5)
    a, b = (made.sample(NOTHING, torch.Generator().manual_seed(9)).data for _ in range(2))
    assert a.shape == (6, 4)
    assert a.equal(b)


def test_a_class_of_one_image_leaves_the_others_their_gaussians() -> None:
    """Each class keeps as many features as it has images: the common covariance is that of the others' many."""
    (stage,) = stages_of("vos", per_class=(400, 400, 400, 1))
    made = stage.synthesiser
    assert isinstance(made, ClassGaussian)
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(1200) % 3, torch.tensor([3])])
    made.observe(torch.randn(1201, made.queue.features.shape[-1], generator=generator), labels)
    outliers = made.sample(NOTHING, generator)
    means, covariance = made.queue.gaussians()
    assert outliers.ready
    assert 0.9 < float(covariance.trace()) / len(covariance) < 1.1
    assert ((outliers.data - means).norm(dim=-1) > 1.2 * len(covariance) ** 0.5).all()  # farther than images are
