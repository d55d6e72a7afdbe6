"""The k-th nearest row through bfloat16, and still exactly: product in bfloat16, candidates in float32, a certificate.

With u = x - m and v = y - m, m the bank's mean (no distance changes, and rounding errors shrink with the vectors),

    closeness  c = u.v - |v|^2 / 2 = (|u|^2 - |x - y|^2) / 2,   the larger the nearer

A product of the rounded u^ and v^ (|v|^2 / 2 rides along in three columns, so that it is not rounded) gives c^ with

    |c - c^| <= |u - u^| |v^| + |u| |v - v^|  +  n 2^-22 (|u| |v^| + |v|^2 / 2)  +  2^-8 (1 + 2^-7) |c^|
                Cauchy-Schwarz on the roundings  n float32 additions, twice       the product's bfloat16 output

with the largest |v|, |v^| and |v - v^| of the bank, all as measured. The 2k rows of largest c^ are compared in float32.
Their k-th closeness is at most the true one, so when it exceeds the smallest c^ among them by the bound, no row outside
can be nearer, and it is the k-th of the whole bank: so it is for 90 to 100 % of queries on features of real images and
for all on Gaussian noise. The others take as many candidates as the bound asks for, seldom more than 4k. A query for
which the product holds anything that is not finite has no certificate, and is searched in float32: a processor may
lose the rows that share a tile with a NaN (AMX does), and bfloat16 rounds the largest float32 numbers to infinity.

Derived from the bank: its rounded copy, half the bank's memory. Needs a CPU that multiplies in bfloat16
(AVX512-BF16 or AMX); features that are ordinary numbers (nothing denormal).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matmul import CHUNK, kth_neighbour

OUTPUT_ERROR = 2.0**-8 * (1 + 2.0**-7)  # of a number rounded to bfloat16, relative to what it became
LEAST_CANDIDATES = 32
NORM_COLUMNS = 3  # 3 x 8 bits: float32's precision
GATHERED = 2**21  # numbers of candidate rows to gather at once: a few MB, which stay in the cache


def cpu_multiplies_bfloat16() -> bool:
    """AVX512-BF16 or AMX: elsewhere torch emulates it, slower than float32."""
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(check() for check in checks if check is not None)


class BFloat16Search:
    """Searches one float32 bank (M, D) on the CPU; every call must pass that bank."""

    def __init__(self, bank: Tensor) -> None:
        rows, width = bank.shape
        self._mean = bank.mean(0)
        self._rounded = bank.new_empty(rows, width + NORM_COLUMNS, dtype=torch.bfloat16)
        norms, errors, halves = bank.new_empty(rows), bank.new_empty(rows), bank.new_empty(rows)
        for part in torch.arange(rows).split(max(1, GATHERED // width)):
            at = slice(int(part[0]), int(part[-1]) + 1)
            v = bank[at] - self._mean
            rounded = v.bfloat16()
            self._rounded[at, :width] = rounded
            norms[at] = torch.linalg.vector_norm(rounded.float(), dim=1)
            errors[at] = torch.linalg.vector_norm(v - rounded.float(), dim=1)
            halves[at] = v.square().sum(1) / 2
        rest = -halves
        for column in range(width, width + NORM_COLUMNS):
            self._rounded[:, column] = rest.bfloat16()
            rest = rest - self._rounded[:, column].float()
        self._norm, self._error, self._half = norms.max(), errors.max(), halves.max()

    def kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        """See `guard.scores.nearest.matmul.kth_neighbour`, at a memory that does not grow with N."""
        parts = queries.split(max(1, CHUNK // len(bank)))
        return torch.cat([self._kth(part, bank, offsets, k) for part in parts])

    def closeness(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """c^ bfloat16 (N, M) and the bound on its error (N,), but for the output's own rounding."""
        u = queries - self._mean
        rounded = u.bfloat16()
        product = torch.cat([rounded, rounded.new_ones(len(u), NORM_COLUMNS)], 1) @ self._rounded.T
        norm = torch.linalg.vector_norm(u, dim=1)
        bound = torch.linalg.vector_norm(u - rounded.float(), dim=1) * self._norm + norm * self._error
        additions = self._rounded.shape[1] * 2.0**-22
        return product, bound + additions * (norm * self._norm + self._half)

    def _kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        approximate, bound = self.closeness(queries)
        count = min(len(bank), max(2 * k, LEAST_CANDIDATES))
        top = approximate.topk(count, dim=-1, sorted=False)
        found = nearest_of(queries, bank, offsets, top.indices, k)
        closeness = self._exact(queries, bank[found])
        certain = closeness >= _at_most(top.values.amin(-1).float()) + bound
        lost = ~top.values.isfinite().all(-1)  # TopK takes NaN for the largest, so none hides outside
        if lost.any():
            found[lost] = apart(queries[lost], bank, offsets, k)
        uncertain = ~(certain | lost)
        if uncertain.any():
            again = uncertain.nonzero()[:, 0]
            possible = _at_most(approximate[again].float()) + bound[again, None] >= closeness[again, None]
            widest = max(k, int(possible.sum(-1).max()))
            some = queries[again]
            if widest > len(bank) // 16:
                found[again] = kth_neighbour(some, bank, offsets, k)
            else:
                candidates = approximate[again].topk(widest, dim=-1, sorted=False).indices
                found[again] = nearest_of(some, bank, offsets, candidates, k)
        return found

    def _exact(self, queries: Tensor, neighbours: Tensor) -> Tensor:
        """c (N,) of a row (N, D) for each query, in float32."""
        v = neighbours - self._mean
        return ((queries - self._mean) * v).sum(-1) - v.square().sum(-1) / 2


def _at_most(rounded: Tensor) -> Tensor:
    """The largest number that bfloat16 rounds to this one."""
    return rounded + rounded.abs() * OUTPUT_ERROR


def apart(queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
    """As `kth_neighbour`, where finite queries share no product with others (which get some row)."""
    finite = queries.isfinite().all(1)
    found = torch.zeros(len(queries), dtype=torch.int64)
    for some in (finite, ~finite):
        found[some] = kth_neighbour(queries[some], bank, offsets, k)
    return found


def nearest_of(queries: Tensor, bank: Tensor, offsets: Tensor | None, candidates: Tensor, k: int) -> Tensor:
    """As `kth_neighbour`, among the rows `candidates` (N, c) of each query."""
    count, width = candidates.shape[1], bank.shape[1]
    found = []
    step = max(1, GATHERED // (count * width))
    for query, rows in zip(queries.split(step), candidates.split(step), strict=True):
        gathered = bank.index_select(0, rows.flatten()).view(len(rows), count, width)
        closeness = torch.bmm(gathered, query[:, :, None])[:, :, 0]
        if offsets is not None:
            closeness = closeness + offsets[rows]
        kth = closeness.topk(k, dim=-1).indices[:, -1:]
        found.append(rows.gather(1, kth)[:, 0])
    return torch.cat(found)
