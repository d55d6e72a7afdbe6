"""Which rows of a bank have the farthest k-th neighbour, exactly, and without looking at most pairs.

    kth(x) = squared distance from x to its k-th nearest row of the bank, x itself being the first

Most rows need no full search. Among some rows of the bank the k-th neighbour is at least as far as among all, so a few
rows near x bound kth(x) from above. They are found as in an inverted file: every row belongs to the nearest of some
pivots, and is compared with the rows nearest to that pivot. The rows of largest bound are searched in full first; the
`select`-th largest kth so far is the cut, and whatever is bounded below it is out. On features with any structure a few
per cent are searched in full; on isotropic noise, where all rows are alike, nearly all are.

Every number comes with a bound on its rounding error, so that nothing is decided by rounding: what the cut cannot tell
apart in float32 is searched again in float64, and equal ones are taken in the order of their rows. On a GPU the full
search is faiss's, where it is installed for GPUs.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from guard.errors import ConfigError, DataError
from guard.twins import twin

from .kth import kth_smallest

ROWS_PER_PIVOT = 100
NEAR = 4  # times k: the rows that a bound comes from
WORTH = 8  # times as many there must be for bounds to save time
FAISS_MOST = 2048  # neighbours that faiss finds on a GPU
CHUNK = 2**24  # numbers in a block of (queries, bank): 64 MB
MARGIN = 2.0**-22  # of float32's rounding, per addition and twice over: products, centring, norms


class Bounds(NamedTuple):
    """Of squared distances, (N,) each, float32 with the rounding error in."""

    low: Tensor
    high: Tensor


class Bank:
    """Float32 features (M, D) around their mean, where products cancel least."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.centred = features - features.mean(0)
        self.squares = self.centred.square().sum(-1)

    def blocks(self, rows: Tensor, others: int) -> tuple[Tensor, ...]:
        """`rows` in parts whose distances to `others` rows fit into memory."""
        parts: tuple[Tensor, ...] = rows.split(max(1, CHUNK // max(1, others)))
        return parts

    def distances(self, rows: Tensor, others: Tensor | slice) -> Tensor:
        """Squared distances (N, M) between two sets of rows, rounded: `rounding` bounds the error."""
        products = torch.addmm(self.squares[others], self.centred[rows], self.centred[others].T, alpha=-2)
        return products.add_(self.squares[rows, None])

    def rounding(self, rows: Tensor) -> Tensor:
        """The largest error (N,) of `distances` to anything."""
        return (self.centred.shape[1] + 8) * MARGIN * (self.squares[rows] + self.squares.max())

    def kth(self, rows: Tensor, k: int) -> Tensor:
        """The kth (N,) of `rows`, within `rounding`."""
        if self.centred.device.type == "cuda" and k <= FAISS_MOST and faiss_has_gpus():
            return faiss_kth(self.centred[rows], self.centred, k)
        parts = self.blocks(rows, len(self.squares))
        return torch.cat([kth_smallest(self.distances(part, slice(None)), k) for part in parts])

    def at_most(self, k: int) -> Tensor:
        """Bounds (M,) on the kth of all rows from above, of rows near each."""
        every = torch.arange(len(self.squares), device=self.squares.device)
        generator = torch.Generator().manual_seed(0)
        pivots = torch.randperm(len(every), generator=generator)[: -(-len(every) // ROWS_PER_PIVOT)].to(every.device)
        near = min(len(every), NEAR * k)
        nearest = torch.cat([self.distances(part, pivots).argmin(-1) for part in self.blocks(every, len(pivots))])
        members = every[nearest.argsort(stable=True)].split(nearest.bincount(minlength=len(pivots)).tolist())
        bounds = torch.empty_like(self.squares)
        for some in self.blocks(torch.arange(len(pivots)), len(every)):
            around = self.distances(pivots[some], slice(None)).topk(near, largest=False, sorted=False).indices
            for pivot, others in zip(some.tolist(), around, strict=True):
                bounds[members[pivot]] = kth_smallest(self.distances(members[pivot], others), k)
        return bounds + self.rounding(every)

    def exact_kth(self, rows: Tensor, k: int) -> Tensor:
        """The kth (N,) of the bank's own `rows` from the differences to their neighbours, all in float64."""
        mean = self.features.mean(0, dtype=torch.float64)
        found = [self.squares.new_empty(0, dtype=torch.float64)]
        for part in rows.split(max(1, CHUNK // 4 // len(self.squares))):
            queries = self.features[part].double()
            distances = []  # less what all of a query have in common
            for some in self.features.split(max(1, CHUNK // 4 // len(mean))):
                others = some.double() - mean
                distances.append(others.square().sum(-1) - 2 * (queries - mean) @ others.T)
            neighbour = torch.cat(distances, 1).topk(k, largest=False).indices[:, -1]
            found.append((queries - self.features[neighbour].double()).square().sum(-1))
        return torch.cat(found)


def boundary_rows(features: Tensor, k: int, select: int, *, nearest: bool = False) -> Tensor:
    """The `select` rows whose k-th neighbour is farthest (or nearest), among equals those that come first.

    Args:
        features: (n, D), finite; taken as float32. On any device; memory for a few blocks beside them.
        k: which neighbour, the row itself being the first; 1 <= k <= n.
        select: 1 <= select <= n.
        nearest: the smallest kth instead: the densest places.

    Returns:
        int64 (select,), ascending.

    Raises:
        ConfigError: k or select is out of range.
        DataError: a feature is not finite.
    """
    n = len(features)
    for name, value in (("k", k), ("select", select)):
        if not 1 <= value <= n:
            raise ConfigError(f"{name} must be in 1..{n} for {n} features, got {value}; lower it or give more features")
    if not features.isfinite().all():
        raise DataError("features must be finite; some are nan or infinite")
    with torch.no_grad():
        search = _Search(Bank(features.detach().float()), k, select, nearest)
        return search.decide(search.bounds())


@functools.cache
def faiss_has_gpus() -> bool:
    """Whether the faiss that is installed, if any, was built for GPUs."""
    return importlib.util.find_spec("faiss") is not None and hasattr(twin("faiss"), "knn_gpu")


def faiss_kth(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """Squared distances (N,) to the k-th nearest rows by faiss's brute force on the tensors' GPU, in float32."""
    faiss = twin("faiss")
    importlib.import_module("faiss.contrib.torch_utils")  # lets faiss take tensors

    distances: Tensor
    distances, _ = faiss.knn_gpu(faiss.StandardGpuResources(), queries, bank, k, device=bank.device.index or 0)
    return distances[:, -1]


class _Search:
    """One call of `boundary_rows`. A row's value is its kth, negated for the nearest: the largest values are wanted."""

    def __init__(self, bank: Bank, k: int, select: int, nearest: bool) -> None:
        self.bank, self.k, self.select, self.nearest = bank, k, select, nearest
        self.low = torch.full_like(bank.squares, -torch.inf)
        bounded = not nearest and len(bank.squares) >= WORTH * NEAR * k
        self.high = bank.at_most(k) if bounded else torch.full_like(bank.squares, torch.inf)

    def bounds(self) -> Bounds:
        """Of every row's value, as tight as float32 gives them for all that may be among the largest."""
        waiting = self.high.argsort(descending=True, stable=True)
        for some in self.bank.blocks(waiting, len(waiting)):
            if self.high[some[0]] < self._cut():  # the largest bound left
                break
            kth, error = self.bank.kth(some, self.k), self.bank.rounding(some)
            value = -kth if self.nearest else kth
            self.low[some], self.high[some] = value - error, value + error
        return Bounds(self.low, self.high)

    def _cut(self) -> Tensor:
        """A value that `select` rows reach for certain."""
        return self.low.topk(self.select).values[-1]

    def decide(self, bounds: Bounds) -> Tensor:
        """The `select` largest values' rows, ascending; float64 decides where the bounds do not."""
        possible = (bounds.high >= self._cut()).nonzero()[:, 0]
        if len(possible) > self.select:
            beaten_by = bounds.high[possible].topk(self.select + 1).values[-1]
            certain = possible[bounds.low[possible] > beaten_by]
            open_ = possible[bounds.low[possible] <= beaten_by]
            value = self.bank.exact_kth(open_, self.k)
            order = (value if self.nearest else -value).argsort(stable=True)
            possible = torch.cat([certain, open_[order[: self.select - len(certain)]]])
        return possible.sort().values
