"""Rows -> what the report says: means over seeds, means of near and far, each OOD set left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .results import Results, Row

METRICS = {  # of an OOD set: title; lower is better where it says so
    "auroc": "AUROC",
    "fpr_at_95_id_tpr": "FPR at 95 % ID TPR",
    "fpr_at_95_ood_tpr": "FPR at 95 % OOD TPR",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "flagged": "flagged",
}
MEANINGS = {
    "auroc": "how often an OOD image scores above an in-distribution image",
    "fpr_at_95_id_tpr": "OOD accepted where 95 % of in-distribution images are; the FPR95 of most papers",
    "fpr_at_95_ood_tpr": "in-distribution images flagged where 95 % of OOD are; the FPR95 of OpenOOD and pytorch-ood",
    "aupr_in": "average precision, in-distribution images positive",
    "aupr_out": "average precision, OOD positive",
    "flagged": "OOD flagged at the calibrated threshold",
}
CHOICE = "left_out"  # the classes that a row was not trained on, where the benchmark leaves some out
LOWER = frozenset({"fpr_at_95_id_tpr", "fpr_at_95_ood_tpr", "false_alarm_rate", "train_seconds"})


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the standard deviation (n - 1); None for one seed."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    found = tuple(float(value) for value in values)
    return Spread(float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else None, found)


@dataclass(frozen=True)
class Group:
    """The rows of one backbone, method, head and score, a row for each seed and choice of left-out classes."""

    backbone: str
    method: str
    head: str
    score: str
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(row["seed"] for row in self.rows)

    def of_choice(self, choice: str) -> Group:
        """Its rows of one choice of left-out classes."""
        return replace(self, rows=tuple(row for row in self.rows if row.get(CHOICE) == choice))

    def of(self, key: str) -> Spread:
        """Of a number of the rows themselves: accuracy, train_seconds ..."""
        return spread(row[key] for row in self.rows)

    def shifted(self, name: str) -> Spread | None:
        """Of the accuracy on a set of data.shifted; None where it is not measured."""
        values = [row.get("accuracies", {}).get(name) for row in self.rows]
        return None if any(value is None for value in values) else spread(values)

    def on(self, names: Sequence[str], metric: str, whose: str = "") -> Spread | None:
        """Of the plain mean over these OOD sets; None where a row lacks one.

        Args:
            whose: "theirs" for the other library's numbers.
        """
        values = [mean_over(row, names, metric, whose) for row in self.rows]
        return (
            None if not names or any(value is None for value in values) else spread(v for v in values if v is not None)
        )


def mean_over(row: Row, names: Sequence[str], metric: str, whose: str = "") -> float | None:
    """The plain mean of a metric over OOD sets; None without any, or where one is missing."""
    found = [row["ood"].get(name, {}) for name in names]
    numbers: list[Any] = [(one.get(whose, {}) if whose else one).get(metric) for one in found]
    return None if not numbers or any(number is None for number in numbers) else float(np.mean(numbers))


def groups(results: Results) -> list[Group]:
    """In the order of the rows."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in results.rows:
        found.setdefault((row["backbone"], row["method"], row["head"], row["score"]), []).append(row)
    return [Group(*name, tuple(rows)) for name, rows in found.items()]


def left_out(group: Group, names: Sequence[str], without: str, metric: str = "auroc") -> Spread | None:
    """Of the mean over all OOD sets but one; None where there is no other."""
    return group.on([name for name in names if name != without], metric)


def columns(results: Results) -> dict[str, tuple[str, ...]]:
    """What tables show of OOD sets: the mean of near, of far, and each set."""
    found: dict[str, tuple[str, ...]] = {}
    if results.near:
        found["near"] = results.near
    if results.far:
        found["far"] = results.far
    return found | {name: (name,) for name in (*results.near, *results.far, *results.other)}


def choices(results: Results) -> list[str]:
    """The choices of left-out classes, in the order of the rows; none where all classes are trained on."""
    return list(dict.fromkeys(row[CHOICE] for row in results.rows if CHOICE in row))


def trained_over(results: Results) -> str:
    """What the rows of one table cell differ in."""
    return "seeds and choices of classes" if len(choices(results)) > 1 else "seeds"


def varying(results: Results) -> list[str]:
    """Of backbone and head those of which there are several: a table shows no column of equal words."""
    return [key for key in ("backbone", "head") if len({row[key] for row in results.rows}) > 1]
