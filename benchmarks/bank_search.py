"""Scores at a bank of 50,000 x 512 random numbers: the second table of `benchmarks.scores`, and its goals.

knn          the k-th neighbour of 256 queries, and of one, among random unit vectors: pytorch-ood's KNN, a faiss flat
             index, scikit-learn's brute force, and ours. k = 50 as published; k = 1 without normalising
mahalanobis  10,000 features of 10 classes in one call
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guard.latency.interleave import Timing, interleave
from guard.scores import create_score
from train.benchmark.counterparts import detector_of as theirs

ROUNDS, ROUND_S = 9, 0.1
BANK, WIDTH, CLASSES = 50_000, 512, 10
GOALS = {  # our time as a share of the other's: (score, other, queries)
    ("knn", "pytorch-ood", 256): 0.40,
    ("knn", "pytorch-ood", 1): 0.40,
    ("knn", "faiss flat", 256): 0.85,
    ("knn", "faiss flat", 1): 0.35,
    ("mahalanobis", "pytorch-ood", 10_000): 0.15,
}


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x)


def knn_rows(threads: int) -> list[dict[str, Any]]:
    """Searches of the synthetic bank: seconds per call, and ours as a share of each."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    bank = unit(torch.randn(BANK, WIDTH, generator=generator))
    labels, logits = torch.zeros(BANK, dtype=torch.int64), torch.zeros(BANK, 1)
    index = faiss.IndexFlatL2(WIDTH)
    index.add(bank.numpy())
    brute = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(bank.numpy())
    rows = []
    for k, normalise in ((50, True), (1, False)):
        other = theirs("KNN")(None, k=k, normalize=normalise).fit_features(bank, labels)
        score = create_score("knn", k=k, normalise=normalise).fit(bank, logits, labels)
        for batch in (256, 1):
            queries = unit(torch.randn(batch, WIDTH, generator=generator))
            array, none = queries.numpy(), torch.zeros(batch, 1)
            calls: dict[str, Callable[[], object]] = {
                "ours": partial(score, queries, none),
                "faiss flat": partial(index.search, array, k),
                "pytorch-ood": partial(other.predict_features, queries),
                "scikit-learn": partial(brute.kneighbors, array, k),
            }
            timings = interleave(calls, rounds=ROUNDS, round_s=ROUND_S)
            exact = torch.cdist(queries.double(), bank.double()).square().kthvalue(k).values
            rows.append(
                {
                    "score": "knn",
                    "k": k,
                    "normalise": normalise,
                    "batch": batch,
                    "error": float((score(queries, none) - exact).abs().max()),
                    **_shares(timings, "knn", batch),
                }
            )
    return rows


def mahalanobis_rows() -> list[dict[str, Any]]:
    """10,000 x 512 features of 10 classes, in one call."""
    generator = torch.Generator().manual_seed(0)
    # a covariance whose condition number is 1,000, as a CIFAR-10 network's
    mix = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0] * torch.logspace(-1.5, 0, WIDTH)[:, None]
    labels = torch.arange(20_000) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    features = centres[labels] + torch.randn(len(labels), WIDTH, generator=generator) @ mix
    fitting, queries = features[:10_000], features[10_000:]
    score = create_score("mahalanobis", shrinkage=0.0).fit(fitting, fitting[:, :CLASSES], labels[:10_000])
    other = theirs("Mahalanobis")(None).fit_features(fitting, labels[:10_000])
    calls = {
        "ours": lambda: score(queries, queries[:, :CLASSES]),
        "pytorch-ood": lambda: other.predict_features(queries),
    }
    found, exact = score(queries, queries[:, :CLASSES]).double(), _exact_mahalanobis(fitting, labels[:10_000], queries)
    timings = interleave(calls, rounds=ROUNDS, round_s=ROUND_S)
    error = float(((found - exact) / exact).abs().max())
    return [
        {"score": "mahalanobis", "batch": len(queries), "error": error, **_shares(timings, "mahalanobis", len(queries))}
    ]


def _exact_mahalanobis(fitting: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The formula in float64."""
    x, q = fitting.double(), queries.double()
    means = torch.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    centred = x - means[labels]
    precision = torch.linalg.inv(centred.T @ centred / len(x))
    return torch.stack([(((q - m) @ precision) * (q - m)).sum(-1) for m in means]).amin(0)


def _shares(timings: dict[str, Timing], score: str, batch: int) -> dict[str, Any]:
    """Seconds of everyone; ours as a share of each other's, with the goal where there is one."""
    shares = {}
    for name, timing in timings.items():
        if name == "ours":
            continue
        # the ratios are of the other over ours
        shares[name] = {
            "share": 1 / timing.ratio,
            "low": 1 / timing.high,
            "high": 1 / timing.low,
            "goal": GOALS.get((score, name, batch)),
        }
    return {"seconds": {name: timing.seconds for name, timing in timings.items()}, "shares": shares}


def bank_table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the synthetic tables: ms per call, our share of each other's time (quartiles; goal)."""
    others = ["pytorch-ood", "faiss flat", "scikit-learn"]
    head = ["score", "queries", "ours, ms", *others, "error"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        what = row["score"]
        if "k" in row:
            what += f", k = {row['k']}" + ("" if row["normalise"] else ", not normalised")
        cells = [what, str(row["batch"]), f"{1e3 * row['seconds']['ours']:.2f}"]
        for name in others:
            share = row["shares"].get(name)
            if share is None:
                cells.append("-")
                continue
            text = f"{1e3 * row['seconds'][name]:.2f}: {share['share']:.2f} ({share['low']:.2f}-{share['high']:.2f})"
            cells.append(text + (f", goal {share['goal']:.2f}" if share["goal"] else ""))
        lines.append("| " + " | ".join([*cells, f"{row['error']:.0e}"]) + " |")
    return "\n".join(lines)
