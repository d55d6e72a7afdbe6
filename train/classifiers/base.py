"""What `guard.fit` knows about the classifier it guards."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from guard.data import ImageData
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.scores import Score

from . import rebuild as build

log = logging.getLogger("ood_guard")


@dataclass(frozen=True)
class GivenClassifier:
    """A classifier to be guarded, and the input it was made for.

    `model` is normalised images -> logits, or a `guard.graph.module.FeatureClassifier`, which shows its features by
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
    class_names: tuple[str, ...] = ()  # where the model brings them, in the order of its logits
    rebuild: dict[str, Any] = field(
        default_factory=dict
    )  # into the manifest's backbone_options, for train.classifiers.rebuild


def normalisation(mean: Any, std: Any, channels: int) -> Normalisation:
    """(pixel / 255 - mean) / std as given; where either is None, ImageNet's, which is said aloud."""
    if mean is None or std is None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if channels == 1:
            mean, std = (0.449,), (0.226,)
        log.warning("mean= and std= not given: ImageNet's %s, %s; give those the model was trained with", mean, std)
    return build.guard_module_normalisation(mean, std, channels)
