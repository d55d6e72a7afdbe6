"""What an evaluation found, as records: `Evaluation`, `IdResult`, `OodResult`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..manifest import Manifest
from ..verdict import Verdicts
from .metrics import METRICS, DetectionMetrics, expected_calibration_error

if TYPE_CHECKING:
    from rich.console import RenderableType

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassResult:
    """The test images predicted as one class: how many, the share flagged, and the threshold that flagged them."""

    images: int
    false_alarm_rate: float
    threshold: float


@dataclass(frozen=True)
class IdResult:
    """In-distribution test images.

    Attributes:
        name, images, corrupt: the data set, how many images were used, how many could not be read.
        accuracy: share of right labels, with its 95 % Wilson interval.
        accuracy_accepted: share of right labels among the images that were not flagged; NaN where all were.
        false_alarm_rate: share flagged.
        expected: where the false-alarm rate should lie with 95 % probability, if these images are exchangeable with the
            calibration images (exact: `guard.calibration.by_class.expected_flags`); None for an uncalibrated guard, and
            where a class-conditional calibration left a class of these images on the pooled threshold.
        labels: (N,) int64 true labels in the guard's own order.
        verdicts: what the guard said.
        source: the images, for the report's gallery.
    """

    name: str
    images: int
    corrupt: int
    accuracy: float
    accuracy_interval: Interval
    accuracy_accepted: float
    false_alarm_rate: float
    expected: Interval | None
    labels: np.ndarray = field(repr=False, compare=False)
    verdicts: Verdicts = field(repr=False, compare=False)
    source: Any = field(repr=False, compare=False)

    @property
    def as_expected(self) -> bool | None:
        """Whether the false-alarm rate lies in `expected`; None where nothing is."""
        return None if self.expected is None else self.expected[0] <= self.false_alarm_rate <= self.expected[1]

    @property
    def calibration_error(self) -> float:
        """ECE of the probabilities, 15 bins (`guard.evaluation.metrics.expected_calibration_error`)."""
        return expected_calibration_error(self.verdicts.probabilities, self.labels)

    @property
    def classes(self) -> dict[str, ClassResult]:
        """By predicted class, for those that were predicted."""
        v, found = self.verdicts, {}
        for c in np.unique(v.label):
            own = v.label == c
            rate, threshold = float(v.is_ood[own].mean()), float(v.thresholds[own][0])
            found[v.class_names[c]] = ClassResult(int(own.sum()), rate, threshold)
        return found


@dataclass(frozen=True)
class OodResult:
    """One out-of-distribution set against the ID test images.

    Attributes:
        name, images, corrupt: as in `IdResult`.
        near: near-OOD, else far-OOD.
        metrics: see `guard.evaluation.metrics`.
        intervals: metric -> 95 % bootstrap interval; empty without a bootstrap.
        flagged: share flagged at the guard's threshold, with its 95 % Wilson interval.
        verdicts, source: as in `IdResult`.
    """

    name: str
    near: bool
    images: int
    corrupt: int
    metrics: DetectionMetrics
    intervals: dict[str, Interval]
    flagged: float
    flagged_interval: Interval
    verdicts: Verdicts = field(repr=False, compare=False)
    source: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """The result of `guard.evaluate`; ``print`` shows it as a table.

    Attributes:
        manifest: of the guard that was evaluated.
        id: the in-distribution part.
        ood: one result per OOD set, in the order given.
        notes: sentences on how the test images were chosen, empty where there is nothing to say.
        bootstrap, seed: of the intervals.
    """

    manifest: Manifest
    id: IdResult
    ood: tuple[OodResult, ...]
    notes: tuple[str, ...]
    bootstrap: int
    seed: int

    @property
    def note(self) -> str:
        return " ".join(self.notes)

    def mean(self, near: bool) -> dict[str, float] | None:
        """Plain means over the near- or far-OOD sets of every metric and of ``flagged``; None without such sets."""
        group = [result for result in self.ood if result.near == near]
        if not group:
            return None
        means = {name: float(np.mean([getattr(r.metrics, name) for r in group])) for name in METRICS}
        return means | {"flagged": float(np.mean([r.flagged for r in group]))}

    def table(self) -> RenderableType:
        """The terminal table, for rich."""
        from .table import table

        return table(self)

    def __str__(self) -> str:
        """The table as plain text, without colour codes."""
        from .table import text

        return text(self)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON (an infinite threshold or a NaN becomes None)."""
        m, calibration = self.manifest, self.manifest.calibration
        numbers: dict[str, Any] = _finite(
            {
                "guard": {
                    "identity": m.identity,
                    "method": m.method,
                    "backbone": m.backbone,
                    "head": m.head,
                    "score": m.score,
                    "precision": m.precision,
                    "classes": list(m.class_names),
                },
                "threshold": m.threshold,
                "target_false_alarm_rate": calibration.alpha if calibration else None,
                "class_conditional": calibration.class_conditional if calibration else False,
                "temperature": m.temperature.value if m.temperature else None,
                "calibration_images": calibration.n if calibration else None,
                "note": self.note,
                "bootstrap": self.bootstrap,
                "seed": self.seed,
                "id": {
                    "name": self.id.name,
                    "images": self.id.images,
                    "corrupt": self.id.corrupt,
                    "accuracy": self.id.accuracy,
                    "accuracy_interval": self.id.accuracy_interval,
                    "accuracy_accepted": self.id.accuracy_accepted,
                    "false_alarm_rate": self.id.false_alarm_rate,
                    "expected_false_alarm_rate": self.id.expected,
                    "as_expected": self.id.as_expected,
                    "expected_calibration_error": self.id.calibration_error,
                    "predicted_class": {name: asdict(result) for name, result in self.id.classes.items()},
                },
                "ood": {
                    r.name: {
                        "group": "near" if r.near else "far",
                        "images": r.images,
                        "corrupt": r.corrupt,
                        **asdict(r.metrics),
                        "flagged": r.flagged,
                        "intervals": {**r.intervals, "flagged": r.flagged_interval},
                    }
                    for r in self.ood
                },
                "mean": {"near": self.mean(near=True), "far": self.mean(near=False)},
            }
        )
        return numbers

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Plain lists and dictionaries; None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
