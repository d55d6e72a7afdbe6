"""The k-th nearest row by faiss's brute force, for CPUs on which bfloat16 is not the faster way."""

from __future__ import annotations

import torch
from torch import Tensor

from ...twins import twin


class FaissSearch:
    """`faiss.knn` over the bank's own memory, no index: float32 on a CPU, with as many threads as torch has."""

    def kth(self, queries: Tensor, bank: Tensor, offsets: Tensor | None, k: int) -> Tensor:
        """See `guard.scores.nearest.matmul.kth_neighbour`; faiss takes the norms by itself."""
        faiss = twin("faiss")
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(torch.get_num_threads())
        try:
            _, rows = faiss.knn(queries.contiguous().numpy(), bank.contiguous().numpy(), k)
        finally:
            faiss.omp_set_num_threads(threads)
        return torch.from_numpy(rows[:, -1].copy()).clamp_min(0)  # a query that is not finite gets -1
