"""The k-th nearest row of a bank, exactly, by the fastest way there is.

    bfloat16    CPUs that multiply in bfloat16: a rounded product, float32 candidates, and a certificate per query
    faiss_flat  other CPUs, where faiss is installed: its brute force in float32
    matmul      one product and one TopK: graphs, GPUs, small banks, other precisions

Time for the 50th neighbour in a bank of 50,000 x 512, as a share of a faiss flat index's, on 2 cores with AVX512-BF16
(`benchmarks/scores.py`): bfloat16 about 0.5 for 256 queries and 0.25 for one, matmul 1.4 and 1.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import weakref
from typing import Protocol

import torch
from torch import Tensor

from .bfloat16 import LEAST_CANDIDATES, BFloat16Search, cpu_multiplies_bfloat16
from .faiss_flat import FaissSearch
from .matmul import MatmulSearch, kth_neighbour

WORTH = 64  # measuring a candidate costs as much as this many rows of a float32 product


class Search(Protocol):
    """A way to search a bank, made for that bank or for any."""

    def kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        """Row of the k-th neighbour, int64 (N,); see `kth_neighbour`."""


def make_search(bank: Tensor, k: int) -> Search:
    """The fastest search for this bank (M, D), where it is, and this k."""
    large = len(bank) >= WORTH * max(2 * k, LEAST_CANDIDATES)
    if large and bank.device.type == "cpu" and bank.dtype == torch.float32:
        if cpu_multiplies_bfloat16():
            return BFloat16Search(bank)
        if _has_faiss():
            return FaissSearch()
    return MatmulSearch()


@functools.cache
def _has_faiss() -> bool:
    """Not on macOS, where faiss and torch bring an OpenMP each, and two end the process."""
    return sys.platform != "darwin" and importlib.util.find_spec("faiss") is not None


class Nearest:
    """Searches a bank, and keeps what speeds that up until the bank changes.

    What is kept is derived from the bank: it belongs to one tensor at one version (torch counts the changes in place),
    is never saved, and copies of this object start without it. Writing through `bank.data` or a numpy view is the one
    change that torch does not count.
    """

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[Tensor], int, int, Search] | None = None

    def kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        """See `kth_neighbour`, which this is while being exported or compiled. No gradient passes."""
        if torch.compiler.is_compiling():
            return kth_neighbour(queries, bank, offsets, k)
        if not len(queries):
            return torch.zeros(0, dtype=torch.int64, device=queries.device)
        with torch.no_grad():
            return self._search(bank, k).kth(queries.detach(), bank, offsets, k)

    def _search(self, bank: Tensor, k: int) -> Search:
        if bank.is_inference():  # its changes are not counted
            return MatmulSearch()
        kept = self._kept
        if kept is None or kept[0]() is not bank or kept[1:3] != (bank._version, k):
            kept = self._kept = (weakref.ref(bank), bank._version, k, make_search(bank, k))
        return kept[3]

    def __deepcopy__(self, memo: dict[int, object]) -> Nearest:
        return Nearest()

    def __reduce__(self) -> tuple[type[Nearest], tuple[()]]:
        return Nearest, ()


__all__ = ["BFloat16Search", "FaissSearch", "MatmulSearch", "Nearest", "Search", "kth_neighbour", "make_search"]
