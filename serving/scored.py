"""What the service keeps of one scored image: the verdict, and the probabilities of all classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guard.verdict import Verdict, Verdicts


@dataclass(frozen=True, slots=True, eq=False)
class Scored(Verdict):
    """A `Verdict` and the distribution behind it.

    Attributes:
        probabilities: (C,) float32, sums to 1.
    """

    probabilities: np.ndarray


def each(verdicts: Verdicts) -> list[Scored]:
    """One by one, with the same values as ``verdicts[i]``; whole arrays become lists at once, which is quicker."""
    n = len(verdicts)
    thresholds = [verdicts.threshold] * n if verdicts.class_offsets is None else verdicts.thresholds.tolist()
    columns = zip(
        verdicts.label.tolist(),
        verdicts.probability.tolist(),
        verdicts.ood_score.tolist(),
        thresholds,
        verdicts.is_ood.tolist(),
        verdicts.p_value.tolist(),
        verdicts.probabilities,
        strict=True,
    )
    names = verdicts.class_names
    return [Scored(c, names[c], p, s, t, flag, pv, row) for c, p, s, t, flag, pv, row in columns]
