"""The farthest rows are those of the naive search: ties, duplicates and what float32 cannot tell apart included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from guard.errors import ConfigError, DataError
from tests.references import naive_boundary
from train.outliers.features import boundary_search
from train.outliers.features.boundary_search import Bank, boundary_rows


def isotropic(n: int, width: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(0)))


def clustered(n: int, width: int) -> Tensor:
    """Clusters of different spread."""
    generator = torch.Generator().manual_seed(1)
    centres, spread = torch.randn(8, width, generator=generator), torch.rand(8, 1, generator=generator)
    which = torch.randint(0, 8, (n,), generator=generator)
    return centres[which] + spread[which] * torch.randn(n, width, generator=generator)


def duplicated(n: int, width: int) -> Tensor:
    """Every row four times: every kth is a tie."""
    return isotropic(-(-n // 4), width).repeat(4, 1)[:n]


def grid(n: int, width: int) -> Tensor:
    """Small integers: distances are integers, with ties everywhere."""
    return torch.randint(0, 3, (n, width), generator=torch.Generator().manual_seed(2)).float()


def offset(n: int, width: int) -> Tensor:
    """Far from the origin, where float32 products cancel."""
    return clustered(n, width) + 300


def equal(n: int, width: int) -> Tensor:
    return torch.ones(n, width)


KINDS = [isotropic, clustered, duplicated, grid, offset, equal]


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_set_is_the_naive_one(
    kind: Callable[[int, int], Tensor], nearest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary_search, "CHUNK", 4000)  # many blocks
    features = kind(310, 12)
    for k, select in ((1, 7), (2, 30), (9, 1), (40, 64), (310, 5), (9, 310)):
        found = boundary_rows(features, k, select, nearest=nearest)
        expected = naive_boundary.boundary_rows(features.double().numpy(), k, select, nearest)
        assert found.tolist() == expected.tolist(), (k, select)


def test_what_float32_cannot_tell_apart_is_told_apart() -> None:
    """Pairs at distances that differ by 1e-7 of themselves: float32's products err by more."""
    pairs = 60
    gap = 1 + 2e-7 * torch.arange(pairs).double().flip(0)
    features = torch.zeros(2 * pairs, 8, dtype=torch.float32)
    features[:, 1] = torch.arange(pairs).repeat_interleave(2) * 50.0
    features[1::2, 0] = gap.float()
    bank = Bank(features)
    every = torch.arange(2 * pairs)
    assert (bank.kth(every, 2) - bank.exact_kth(every, 2)).abs().max() > 1e-5
    found = boundary_rows(features, 2, 20)
    expected = naive_boundary.boundary_rows(features.double().numpy(), 2, 20)
    assert found.tolist() == expected.tolist()


def test_kth_distances_are_scikit_learns_and_within_the_stated_error() -> None:
    features = clustered(400, 16)
    bank, every = Bank(features), torch.arange(400)
    for k in (2, 30):
        theirs = NearestNeighbors(n_neighbors=k).fit(features.double().numpy()).kneighbors()[0]
        others = torch.from_numpy(theirs[:, k - 2] ** 2)  # theirs leave the row itself out
        torch.testing.assert_close(bank.exact_kth(every, k), others)
        error = (bank.kth(every, k).double() - others).abs()
        assert (error <= bank.rounding(every)).all()
        assert bank.rounding(every).max() < 1e-2 * others.min()
        assert (bank.at_most(k).double() >= others).all()


def test_few_rows_of_structured_features_are_searched_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    kth = Bank.kth
    monkeypatch.setattr(boundary_search, "CHUNK", 2**17)
    monkeypatch.setattr(Bank, "kth", lambda self, rows, k: (searched.append(len(rows)), kth(self, rows, k))[1])
    features = clustered(4000, 16)
    found = boundary_rows(features, 20, 40)
    assert sum(searched) < 800
    distances = torch.cdist(features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist")
    kth_distances = np.sort(distances.numpy(), axis=1)[:, 19]
    assert found.tolist() == sorted(np.argsort(-kth_distances, kind="stable")[:40].tolist())


def test_what_cannot_be_asked_is_refused() -> None:
    features = isotropic(20, 4)
    with pytest.raises(ConfigError, match=r"k must be in 1\.\.20 for 20 features, got 21"):
        boundary_rows(features, 21, 2)
    with pytest.raises(ConfigError, match=r"select must be in 1\.\.20 for 20 features, got 0"):
        boundary_rows(features, 2, 0)
    features[3, 1] = torch.nan
    with pytest.raises(DataError, match="finite"):
        boundary_rows(features, 2, 2)
