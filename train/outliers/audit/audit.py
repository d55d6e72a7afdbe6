"""How outliers differ from in-distribution images in ways that teach a detector the wrong thing.

For a store beside its in-distribution images: how well each low-level statistic tells the two apart, how much outliers
differ from one another, duplicates and copies, and, with a classifier, what it makes of them. Up to 5,000 images of
each side are looked at, evenly spaced.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guard.data import ImageData
from guard.detector import Guard
from guard.evaluation import metrics
from guard.evaluation.charts import BINS, score_range
from guard.graph.module import GuardModule
from guard.scores.nearest import Nearest
from guard.verdict import Verdicts

from ...engine.progress import progress_bar
from ...features.extract import stream_outputs
from ..matching import CODING
from ..store.store import Store
from .diversity import diversity
from .duplicates import NEAR_RMS, describe, digests, nearest, rms
from .low_level import REMEDIES, STATISTICS
from .record import WARN_AUROC, Audit, ClassifierAudit, Histogram

log = logging.getLogger("ood_guard")

MOST = 5000  # images of each side
MOST_FOR_COPIES = 50_000  # in-distribution images that outliers are compared with
MOST_FOR_DISTANCES = 10_000  # in-distribution images whose features outliers are compared with
CONFIDENT = 0.9
_BATCH = 256
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def audit(
    outliers: ImageData,
    inliers: ImageData,
    *,
    matched: tuple[str, ...] = (),
    g: Guard | None = None,
    held_out: ImageData | None = None,
) -> Audit:
    """Compare outliers with the in-distribution images they were made from.

    Args:
        matched: what they were matched in, so that a warning does not advise what was done.
        g: a classifier to look at both with.
        held_out: in-distribution images it was not trained on; default some of `inliers`.
    """
    outside, inside = spread(outliers, MOST), spread(inliers, MOST)
    ours, theirs = _numbers(outside, "audit: outliers"), _numbers(inside, "audit: in-distribution")
    separation = {name: folded_auroc(theirs[name], ours[name]) for name in STATISTICS}
    varied = diversity(outside, inside)
    found = Audit(
        outliers=len(outside),
        inliers=len(inside),
        separation=separation,
        **_duplicates(outside, spread(inliers, MOST_FOR_COPIES)),
        near_rms=NEAR_RMS,
        diversity=(varied.outliers, varied.inliers),
        classifier=None if g is None else _seen_by(g, outside, inliers, held_out),
    )
    warnings = [varied.sentence()] if varied.collapsed and len(outside) > 1 else []
    warnings += _warnings(found, matched, coded=bool(inliers.codings))
    return found.model_copy(update={"warnings": tuple(warnings)})


def folded_auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """max(a, 1 - a): how well a number tells the two apart, whichever is larger; 0.5 is not at all."""
    a = metrics.auroc(inside, outside)
    return max(a, 1 - a)


def spread(data: ImageData, most: int) -> ImageData:
    """At most so many images, evenly spaced."""
    if len(data) <= most:
        return data
    return data.subset(np.linspace(0, len(data) - 1, most).round().astype(np.int64))


def _batches(data: ImageData, title: str) -> Iterator[np.ndarray]:
    with progress_bar(title, -(-len(data) // _BATCH)) as advance:
        for images, _ in data.batches(_BATCH):
            yield images
            advance()


def _numbers(data: ImageData, title: str) -> dict[str, np.ndarray]:
    parts = [{name: number(images) for name, number in STATISTICS.items()} for images in _batches(data, title)]
    return {name: np.concatenate([part[name] for part in parts]) for name in STATISTICS}


class _Counts(TypedDict):
    exact_duplicates: int
    near_duplicates: int
    exact_copies: int
    near_copies: int


def _duplicates(outliers: ImageData, inliers: ImageData) -> _Counts:
    """The four counts of `Audit`."""
    ours, marks = _described(outliers, "audit: duplicates")
    theirs, other_marks = _described(inliers, "audit: copies")
    first: dict[bytes, int] = {}
    repeated = np.array([first.setdefault(mark, i) != i for i, mark in enumerate(marks)])
    known = set(other_marks)
    copied = np.array([mark in known for mark in marks])
    return {
        "exact_duplicates": int(repeated.sum()),
        "near_duplicates": int((_near(outliers, ours, outliers, ours, 0) & ~repeated).sum()),
        "exact_copies": int(copied.sum()),
        "near_copies": int((_near(outliers, ours, inliers, theirs, None) & ~copied).sum()),
    }


def _described(data: ImageData, title: str) -> tuple[np.ndarray, list[bytes]]:
    parts, marks = [], []
    for images in _batches(data, title):
        parts.append(describe(images))
        marks += digests(images)
    return np.concatenate(parts), marks


def _near(
    queries: ImageData, described: np.ndarray, others: ImageData, their: np.ndarray, start: int | None
) -> np.ndarray:
    """bool (n,): whether one of the images closest in description is within `NEAR_RMS` pixel by pixel."""
    near = np.zeros(len(queries), bool)
    for number, rows in nearest(described, their, start):
        one = queries.take(np.array([number]))
        near[number] = bool((rms(others.take(rows), one) <= NEAR_RMS).any())
    return near


# -------------------------------------------------------------------------------------------------- with a classifier


def _seen_by(g: Guard, outliers: ImageData, inliers: ImageData, held_out: ImageData | None) -> ClassifierAudit:
    inside = spread(held_out if held_out is not None else inliers, MOST)
    ours, theirs = (_verdicts(g, data) for data in (outliers, inside))
    extent = score_range(theirs.ood_score, [ours.ood_score], g.threshold)
    module = getattr(g.runtime, "module", None)
    distances = None if module is None else _distances(module, outliers, inside, inliers, held_out is not None)
    return ClassifierAudit(
        guard=g.manifest.identity,
        score=g.manifest.score,
        threshold=g.threshold,
        confident_at=CONFIDENT,
        confident_share=float((ours.probability >= CONFIDENT).mean()),
        flagged_share=float(ours.is_ood.mean()),
        auroc=metrics.auroc(theirs.ood_score, ours.ood_score),
        held_out=len(inside),
        held_out_note="held out from making the outliers" if held_out is not None else "the outliers' own sources",
        outlier_scores=histogram(ours.ood_score, extent),
        id_scores=histogram(theirs.ood_score, extent),
        outlier_distance=distances and distances[0],
        id_distance=distances and distances[1],
    )


def _verdicts(g: Guard, data: ImageData) -> Verdicts:
    return g.predict_batches(_batches(data, "audit: classifier"))


def histogram(values: np.ndarray, extent: tuple[float, float]) -> Histogram:
    """Equal bins over `extent`; what lies outside counts in the end bins."""
    edges = np.linspace(*extent, BINS + 1)
    counts, _ = np.histogram(np.clip(values.astype(np.float64), *extent), edges)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))


def _distances(
    module: GuardModule, outliers: ImageData, inside: ImageData, inliers: ImageData, apart: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quantiles of the distance to the nearest of the `inliers`: of outliers, and of the images `inside`.

    `apart`: those are none of the inliers; else each one's nearest is itself, and the next one counts.
    """
    bank = _features(module, spread(inliers, MOST_FOR_DISTANCES) if apart else inside)
    ours, theirs = _features(module, outliers), _features(module, inside)
    return _quantiles(ours, bank, 1), _quantiles(theirs, bank, 1 if apart else 2)


def _features(module: GuardModule, data: ImageData) -> Tensor:
    """Unit-length features (n, D)."""
    parts = [outputs.features.clone() for outputs in stream_outputs(module, data, title="audit: features")]
    return F.normalize(torch.cat(parts), dim=-1)


def _quantiles(queries: Tensor, bank: Tensor, k: int) -> tuple[float, ...]:
    with torch.no_grad():
        rows = Nearest().kth(queries, bank, None, min(k, len(bank)))
        distance = torch.linalg.vector_norm(queries - bank[rows], dim=-1)
    return tuple(float(q) for q in np.quantile(distance.cpu().double().numpy(), _QUANTILES))


# ----------------------------------------------------------------------------------------------------------- in words


def _remedies(high: Collection[str], matched: tuple[str, ...], coded: bool) -> list[str]:
    """What to match beyond `matched`, so that each number is equalised; `coded`: the source's files are JPEGs."""
    chosen: list[str] = []
    for name in high:
        if not any(what in matched or what in chosen for what in REMEDIES[name]):
            chosen.append(REMEDIES[name][0])
    return [*chosen, CODING] if coded and "coded bytes" in high and CODING not in matched else chosen


def _warnings(found: Audit, matched: tuple[str, ...], coded: bool) -> Iterator[str]:
    high = {name: auroc for name, auroc in found.separation.items() if auroc > WARN_AUROC}
    if high:
        named = ", ".join(f"{name} ({auroc:.2f})" for name, auroc in high.items())
        left = _remedies(high, matched, coded)
        fix = f"match them ({' '.join(f'--match {what}' for what in left)}), or " if left else ""
        yield (
            f"one low-level statistic is enough to tell the outliers from in-distribution images (AUROC): {named}; a "
            f"detector may learn it and nothing else: {fix}mix in outliers of another synthesiser"
        )
    if found.exact_copies:
        yield (
            f"{found.exact_copies} of {found.outliers} outliers are in-distribution images, pixel by pixel: a detector "
            "is told both; use other options of the synthesiser"
        )
    repeated = found.exact_duplicates + found.near_duplicates
    if repeated > 0.01 * found.outliers:
        yield (
            f"{repeated} of {found.outliers} outliers are (nearly) the same as another one: make fewer, or vary the "
            "synthesiser's options"
        )


def audited(store: Store, inliers: ImageData, g: Guard | None = None, held_out: ImageData | None = None) -> Store:
    """The store with an audit in its card."""
    from ..store.card import write_card

    outliers = store.images(inliers.preprocess)
    found = audit(outliers, inliers, matched=store.card.match, g=g, held_out=held_out)
    card = store.card.model_copy(update={"audit": found})
    write_card(store.folder, card)
    return Store(store.folder, card)
