"""What a guard answers: one `Verdict` per image, `Verdicts` for a batch (arrays)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one image.

    Attributes:
        label: predicted class index, 0 .. C-1.
        class_name: its name.
        probability: softmax probability of that class, in [0, 1].
        ood_score: higher = more out-of-distribution; its unit depends on the score.
        threshold: the score above which an image of this predicted class is flagged.
        is_ood: ``ood_score > threshold``, or the score is NaN (a network that divides by nothing).
        p_value: (1 + #{calibration scores >= ood_score}) / (n + 1), in (0, 1]; NaN for an uncalibrated guard. Under a
            class-conditional calibration the scores are those of this predicted class.
    """

    label: int
    class_name: str
    probability: float
    ood_score: float
    threshold: float
    is_ood: bool
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a p_value that is not there becomes None."""
        return {
            "label": self.label,
            "class_name": self.class_name,
            "probability": self.probability,
            "ood_score": self.ood_score,
            "threshold": self.threshold,
            "is_ood": self.is_ood,
            "p_value": None if np.isnan(self.p_value) else self.p_value,
        }


@dataclass(frozen=True)
class Verdicts:
    """The answers for N images, as arrays; ``verdicts[i]`` is one `Verdict`, iteration yields them in order.

    Attributes:
        label: (N,) int64.
        probabilities: (N, C) float32, rows sum to 1.
        ood_score: (N,) float32, higher = more out-of-distribution.
        is_ood: (N,) bool.
        p_value: (N,) float64 in (0, 1], or NaN for an uncalibrated guard.
        threshold: the threshold these flags used, before the class offsets.
        class_names: the C names.
        class_offsets: (C,) float32 added to the threshold by predicted class (class-conditional calibration), or None.
    """

    label: np.ndarray
    probabilities: np.ndarray
    ood_score: np.ndarray
    is_ood: np.ndarray
    p_value: np.ndarray
    threshold: float
    class_names: tuple[str, ...]
    class_offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...
    def __getitem__(self, index: int | slice) -> Verdict | Verdicts:
        if isinstance(index, slice):
            return Verdicts(
                self.label[index],
                self.probabilities[index],
                self.ood_score[index],
                self.is_ood[index],
                self.p_value[index],
                self.threshold,
                self.class_names,
                self.class_offsets,
            )
        label = int(self.label[index])
        return Verdict(
            label=label,
            class_name=self.class_names[label],
            probability=float(self.probabilities[index, label]),
            ood_score=float(self.ood_score[index]),
            threshold=self.threshold if self.class_offsets is None else float(self._limit(label)),
            is_ood=bool(self.is_ood[index]),
            p_value=float(self.p_value[index]),
        )

    def __iter__(self) -> Iterator[Verdict]:
        return (self[i] for i in range(len(self)))

    @property
    def thresholds(self) -> np.ndarray:
        """(N,) float32: each image's threshold, that of its predicted class under a class-conditional calibration."""
        return np.broadcast_to(self._limit(self.label), self.label.shape)

    def _limit(self, label: Any) -> Any:
        offset = 0 if self.class_offsets is None else self.class_offsets[label]
        return np.float32(self.threshold) + np.float32(offset)

    @property
    def probability(self) -> np.ndarray:
        """(N,) probability of the predicted class."""
        predicted: np.ndarray = self.probabilities[np.arange(len(self)), self.label]
        return predicted

    @property
    def class_name(self) -> list[str]:
        """The N predicted names."""
        return [self.class_names[i] for i in self.label]
