"""Exact kNN in a large bank on the device: `guard.scores.nearest` against faiss's flat index, and that both agree.

Queries and bank lie on the device before the clock starts; faiss gets them as numpy arrays, which is how it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.latency.interleave import interleave
from guard.scores.nearest.matmul import MatmulSearch
from guard.twins import twin

from .part import Part, run, synchronise

TITLE = "Exact kNN"
QUERIES = (1, 64, 256)
K = 50


def measure(part: Part) -> None:
    """Ours and, where it was carried, faiss's."""
    torch.backends.cuda.matmul.allow_tf32 = False
    rows, width = (2_000, 32) if part.toy else (1_000_000, 512)
    generator = torch.Generator(part.device).manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(rows, width, device=part.device, generator=generator), dim=1)
    index = None

    def opened() -> None:
        nonlocal index
        index = faiss_index(bank)

    part.attempt("faiss", opened)
    for n in QUERIES[:1] if part.toy else QUERIES:
        drawn = torch.randn(n, width, device=part.device, generator=generator)
        queries = torch.nn.functional.normalize(drawn, dim=1)
        part.attempt(f"{n} queries", partial(_one, part, queries, bank, index))


def faiss_index(bank: Tensor) -> Any:
    """A flat index of the bank, on the GPU where the bank is."""
    faiss = twin("faiss")
    flat = faiss.IndexFlatL2(bank.shape[1])
    if bank.device.type == "cuda":
        flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
    flat.add(bank.cpu().numpy())
    return flat


def _one(part: Part, queries: Tensor, bank: Tensor, index: Any) -> None:
    k = min(K, len(bank))
    search, host = MatmulSearch(), queries.cpu().numpy()

    def ours() -> Tensor:
        found = search.kth(queries, bank, None, k)
        synchronise(part.device)
        return found

    calls: dict[str, Callable[[], object]] = {"ours": ours}
    if index is not None:
        calls["faiss"] = lambda: index.search(host, k)
    timings = interleave(calls, rounds=2 if part.toy else 7, round_s=1e-3 if part.toy else 0.1)
    columns: dict[str, Any] = {"queries": len(queries), "bank": f"{len(bank)} x {bank.shape[1]}"}
    columns["ours, ms"] = 1e3 * timings["ours"].seconds
    if index is not None:
        distance = (queries - bank[ours()]).square().sum(1).sqrt().cpu().numpy()
        theirs = np.sqrt(np.maximum(index.search(host, k)[0][:, -1], 0))
        columns |= {"faiss, ms": 1e3 * timings["faiss"].seconds, "ours / faiss": 1 / timings["faiss"].ratio}
        columns["largest difference of distance"] = float(np.abs(distance - theirs).max())
    part.row(**columns)


if __name__ == "__main__":
    run("bank", TITLE, measure)
