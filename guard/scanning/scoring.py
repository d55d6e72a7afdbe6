"""Groups of images -> verdicts, in the order given; here, with processes that decode (`guard.data.decoding`).

CUDA, TensorRT and torch are run so, and a guard or a data set that is in memory alone; `processes` has the other way.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.decoding import Decoded, decode
from ..detector import Guard
from .reading import Reading


@dataclass(frozen=True)
class Scored:
    """The verdicts of one group of `count` images.

    Attributes:
        failures: (position, reason) of each image that could not be read.
        label, probability, ood_score, is_ood, p_value: (n,) of the others, in order, as in `guard.verdict.Verdicts`.
        given_probability: (n,) float32 of the data's own label; (0,) without labels.
    """

    count: int
    failures: tuple[tuple[int, str], ...]
    label: np.ndarray
    probability: np.ndarray
    ood_score: np.ndarray
    is_ood: np.ndarray
    p_value: np.ndarray
    given_probability: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """Several groups as one."""
        starts = itertools.accumulate((part.count for part in parts), initial=0)
        failures = [(at + start, why) for part, start in zip(parts, starts, strict=False) for at, why in part.failures]
        arrays = ("label", "probability", "ood_score", "is_ood", "p_value", "given_probability")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
        return cls(sum(part.count for part in parts), tuple(failures), **joined)

    def readable(self) -> np.ndarray:
        """(count,) bool."""
        mask = np.ones(self.count, bool)
        mask[[at for at, _ in self.failures]] = False
        return mask


def verdicts_of(g: Guard, decoded: Decoded, given: np.ndarray | None) -> Scored:
    """The verdicts on decoded images; `given` (count,) are the data's own labels in the guard's order."""
    found = g.predict_batches([decoded.images])
    own = np.zeros(0, np.float32)
    if given is not None:
        kept = np.delete(given, [at for at, _ in decoded.failures])
        own = found.probabilities[np.arange(len(found)), kept]
    return Scored(
        count=decoded.count,
        failures=decoded.failures,
        label=found.label,
        probability=found.probability,
        ood_score=found.ood_score,
        is_ood=found.is_ood,
        p_value=found.p_value,
        given_probability=own,
    )


def scored_here(
    g: Guard, source: Reading, groups: Iterable[np.ndarray], labels: np.ndarray | None, *, workers: int, max_pixels: int
) -> Generator[Scored, None, None]:
    """Score each group of rows in this process; `workers` others decode."""
    ahead, groups = itertools.tee(groups)
    stream = decode(source, ahead, g.manifest.preprocess, workers=workers, max_pixels=max_pixels)
    for rows, decoded in zip(groups, stream, strict=True):
        yield verdicts_of(g, decoded, None if labels is None else labels[rows])
