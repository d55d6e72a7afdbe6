"""What `guard.fit` knows about the classifier it guards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from guard.data import ImageData
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.scores import Score


@dataclass(frozen=True)
class GivenClassifier:
    """A classifier to be guarded, and the input it was made for.

    `model` is normalised images -> logits, or a `guard.graph.outputs.FeatureClassifier`, which shows its features by
    itself.
    """

    model: nn.Module
    preprocess: Preprocess
    normalisation: Normalisation
    backbone: str
    head: str = "linear"
    trained: Manifest | None = None  # of the guard it comes from
    score: Score | None = None  # of that guard
    data: ImageData | None = None  # where finding the input size has loaded it already
    layer: str | None = None  # where its features were found before
    outputs: str | None = None  # what its numbers were taken for before (`guard.graph.answers`)
    class_names: tuple[str, ...] = ()  # where the model brings them, in the order of its logits
    rebuild: dict[str, Any] = field(default_factory=dict)  # into the manifest's backbone_options, for `rebuild`
