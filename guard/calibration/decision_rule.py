"""From score and label to the flag, from logits to calibrated probabilities: the same arithmetic in the graph and here.

    is_ood        = not (ood_score <= threshold + class_offsets[label])    offsets: class-conditional calibration only
    probabilities = softmax(logits * inverse_temperature)                  temperature scaling only

A score that is not a number is flagged: it says nothing for the image.

A graph that has the inputs `class_offsets` and `inverse_temperature` does both by itself, with the calibrated values as
their defaults; `Guard` feeds them with every call. For one without (a torch module, a file exported before it was
calibrated so) `Decision.complete` does the rest here: flags bit for bit, probabilities within float32 rounding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..manifest import Manifest
from ..runtimes import Outputs
from .temperature import tempered

CLASS_OFFSETS = "class_offsets"
INVERSE_TEMPERATURE = "inverse_temperature"


def flagged(ood_score: Any, threshold: Any) -> Any:
    """(N,) bool, of arrays or tensors: the score is above the threshold, or NaN."""
    return ~(ood_score <= threshold)


@dataclass(frozen=True)
class Decision:
    """One way of deciding.

    Attributes:
        threshold: of all classes together; +inf flags no number.
        class_offsets: (C,) float32 added to it by predicted class, or None.
        inverse_temperature: float32 that the logits are multiplied by, or None.
        classes: C.
    """

    threshold: float
    class_offsets: np.ndarray | None
    inverse_temperature: np.float32 | None
    classes: int

    @classmethod
    def of(cls, manifest: Manifest, threshold: float | None = None) -> Decision:
        """The manifest's, or with another threshold (to which the offsets are added too)."""
        calibration = manifest.calibration
        by_class = calibration is not None and calibration.class_conditional
        return cls(
            threshold=manifest.threshold if threshold is None else threshold,
            class_offsets=np.array(calibration.class_offsets, np.float32) if calibration and by_class else None,
            inverse_temperature=manifest.temperature.inverse if manifest.temperature else None,
            classes=len(manifest.class_names),
        )

    @property
    def needs(self) -> frozenset[str]:
        """The optional inputs that a graph must have to decide so by itself."""
        wanted = {CLASS_OFFSETS: self.class_offsets, INVERSE_TEMPERATURE: self.inverse_temperature}
        return frozenset(name for name, value in wanted.items() if value is not None)

    def inputs(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Values for those of the optional inputs that a graph has; ones without effect where there is nothing to do:
        the graph's own defaults may be of another calibration."""
        offsets, inverse = self.class_offsets, self.inverse_temperature
        values = {
            CLASS_OFFSETS: np.zeros(self.classes, np.float32) if offsets is None else offsets,
            INVERSE_TEMPERATURE: np.array(1.0 if inverse is None else inverse, np.float32),
        }
        return {name: value for name, value in values.items() if name in names}

    def defaults(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """`inputs`, and the threshold: what a graph with these inputs has as its own defaults."""
        return {"threshold": np.array(self.threshold, np.float32), **self.inputs(names)}

    def complete(self, outputs: Outputs, names: Collection[str]) -> Outputs:
        """What a graph with the optional inputs `names` left to do; graphs of older releases do not flag NaN either."""
        if self.class_offsets is not None and CLASS_OFFSETS not in names:
            limits = np.float32(self.threshold) + self.class_offsets[outputs.label]
            outputs = replace(outputs, is_ood=flagged(outputs.ood_score, limits))
        elif (unknown := np.isnan(outputs.ood_score)).any():
            outputs = replace(outputs, is_ood=outputs.is_ood | unknown)
        if self.inverse_temperature is not None and INVERSE_TEMPERATURE not in names:
            outputs = replace(outputs, probabilities=tempered(outputs.probabilities, self.inverse_temperature))
        return outputs
