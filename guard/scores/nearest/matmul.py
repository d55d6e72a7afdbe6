"""The k-th nearest row by one matrix product and one TopK: what graphs compute, and any device can.

    argmin_y |x - y|^2 = argmax_y  x.y - |y|^2 / 2          (the term is left out for unit rows, where it is constant)

A search only says *which* row is the k-th; the caller takes the distance from the difference x - y, which has float32's
relative precision also where the product cancels. What rounding can do is to swap rows whose squared distances are
equal to about 1e-6 (|x|^2 + |y|^2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**26  # numbers in a chunk of the (queries, bank) matrix


def kth_neighbour(queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
    """Row of the k-th neighbour, int64 (N,): queries (N, D), bank (M, D), offsets -|y|^2 / 2 (M,), None if constant.

    Needs memory for N M numbers.
    """
    return F.linear(queries, bank, offsets).topk(k, dim=-1).indices[:, -1]


class MatmulSearch:
    """`kth_neighbour` in chunks of queries; any device, any precision."""

    def kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        """See `kth_neighbour`, at a memory that does not grow with N."""
        parts = queries.split(max(1, CHUNK // len(bank)))
        return torch.cat([kth_neighbour(part, bank, offsets, k) for part in parts])
