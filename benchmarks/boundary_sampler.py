"""The exact search for boundary points against the naive one: 50,000 features of 512 dimensions.

    python -m benchmarks.boundary_sampler            # about 3 minutes; results/boundary_sampler.json and .md
    python -m benchmarks.boundary_sampler --quick    # 12,500 features, to the terminal only

Wanted are the 200 rows whose 300th neighbour is farthest (NPOS's options), over all features in one bank.

    naive      every distance, by one product per block of rows; every row of distances sorted in full (numpy's sort,
               which is vectorised: torch's takes four times as long); the 200 largest
    ours       `boundary_rows`
    sampler    `boundary_outliers`: ours, then 1,200 candidates around two of the rows and the 400 that are kept

Two banks. "structured": 100 classes of different spread, whose covariances fall off as a network's features' do; unit
length. "isotropic": noise, uniform on the sphere, where all rows are alike and next to nothing can be ruled out: the
worst case, at a fifth of the rows. The naive search runs once, in parts with ours before, between and after them, so
that both meet the same machine; with one thread, times are processor seconds. Both sets are compared with float64's.
A row costs the naive search the same wherever it is, so on a busy machine it may take only some (--share 5), and those
that ours selects: its time is scaled up, and the sets are compared over the rows it took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guard.cores import available_cores
from guard.latency.machine import describe, machine
from tests.references.naive_boundary import full_sort
from train.outliers.features.boundary_search import boundary_rows
from train.outliers.features.knn_boundary import BoundaryOptions, boundary_outliers

RESULTS = Path(__file__).parent / "results"
ROWS, WIDTH, CLASSES = 50_000, 512, 100
OPTIONS = BoundaryOptions()  # NPOS's: k 300, select 200
PARTS = 2
GOAL = 5.0  # times as fast as the naive one, on structured features


def structured(rows: int) -> Tensor:
    """Unit features of `CLASSES` classes: a power-law spectrum, and a spread of its own for every row."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    falling = 4 * torch.arange(1, WIDTH + 1) ** -0.5
    spread = torch.exp(0.3 * torch.randn(rows, 1, generator=generator))
    around = torch.randn(rows, WIDTH, generator=generator) * falling * spread
    return F.normalize(centres[torch.arange(rows) % CLASSES] + around)


def isotropic(rows: int) -> Tensor:
    """Uniform on the unit sphere."""
    return F.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0)))


def compare(bank: Tensor, share: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of either, how many of their rows agree, and whether they are float64's.

    Args:
        share: the naive search takes one row in so many, and those that ours selects; its time is scaled up.
    """
    array, k, select = bank.numpy(), OPTIONS.k, OPTIONS.select

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        began = clock()
        result = call()
        return clock() - began, result

    seconds, found = timed(lambda: boundary_rows(bank, k, select))
    ours, selected = [seconds], set(found.tolist())
    rows = np.array(sorted({*range(0, len(bank), share), *selected}))
    kth, naive = [], 0.0
    for part in np.array_split(rows, PARTS):
        seconds, distances = timed(lambda part=part: full_sort(array, k, part))
        naive += seconds * len(bank) / len(rows)
        kth.append(distances)
        ours.append(timed(lambda: boundary_rows(bank, k, select))[0])
    sampler, _ = timed(lambda: boundary_outliers(bank, OPTIONS, torch.Generator().manual_seed(0)))
    distances = np.concatenate(kth)
    naive_rows = rows[np.argsort(-distances, kind="stable")[:select]]
    return {
        "rows": len(bank),
        "naive_rows": len(rows),
        "naive_s": naive,
        "ours_s": float(np.median(ours)),
        "ours_low_s": min(ours),
        "ours_high_s": max(ours),
        "sampler_s": sampler,
        "ratio": naive / float(np.median(ours)),
        "shared_with_naive": len(selected & set(naive_rows.tolist())),
        "shared_with_float64": len(selected & float64_rows(array, rows, distances, k, select)),
    }


def float64_rows(array: np.ndarray, rows: np.ndarray, kth: np.ndarray, k: int, select: int) -> set[int]:
    """The selection among `rows` by float64 distances, which are taken where float32's are within 1e-4 of the cut."""
    cut = np.sort(kth)[-select]
    certain, near = rows[kth > cut + 1e-4], rows[np.abs(kth - cut) <= 1e-4]
    bank = array.astype(np.float64)
    exact = np.array([np.partition(((bank[row] - bank) ** 2).sum(1), k - 1)[k - 1] for row in near])
    best = near[np.argsort(-exact, kind="stable")[: select - len(certain)]]
    return {*certain.tolist(), *best.tolist()}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    head = ["bank", "rows", "of which naively searched", "naive, s", "ours, s (range)", "naive / ours"]
    head += ["whole sampler, s", "of 200 rows, as naive", "as float64"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, r in results.items():
        ours = f"{r['ours_s']:.1f} ({r['ours_low_s']:.1f}-{r['ours_high_s']:.1f})"
        cells = [
            name,
            f"{r['rows']:,}",
            f"{r['naive_rows']:,}",
            f"{r['naive_s']:.1f}",
            ours,
            f"{r['ratio']:.1f}",
            f"{r['sampler_s']:.1f}",
        ]
        lines.append("| " + " | ".join([*cells, str(r["shared_with_naive"]), str(r["shared_with_float64"])]) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings, facts = result["settings"], result["machine"]
    return f"""# The boundary sampler against the naive search

{WIDTH} dimensions, k {OPTIONS.k}, select {OPTIONS.select}; {settings["threads"]} threads, {settings["clock"]} seconds.
`benchmarks/boundary_sampler.py` says what is compared. Goal on structured features: {GOAL:.0f} times as fast.

{describe(facts)}; load {facts["load"]} at the start

{table(result["banks"])}
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--share", type=int, default=1, help="the naive search takes one row in so many")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "boundary_sampler.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    began, facts = time.perf_counter(), machine()
    rows = args.rows // 4 if args.quick else args.rows
    banks = {"structured": structured(rows), "isotropic": isotropic(rows // 5)}
    settings: dict[str, Any] = {"threads": args.threads, "clock": "processor" if args.threads == 1 else "wall"}
    result: dict[str, Any] = {
        "benchmark": "boundary_sampler",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "banks": {name: compare(bank, args.share, clock) for name, bank in banks.items()},
    }
    settings["seconds"] = round(time.perf_counter() - began)
    print(table(result["banks"]))
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(f"{settings['seconds']} s")


if __name__ == "__main__":
    main()
