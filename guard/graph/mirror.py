"""What a classifier shows of an image and its mirror image together: the means of features and of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .outputs import FeatureClassifier, Outputs


def with_mirror(classifier: FeatureClassifier, x: Tensor) -> Outputs:
    """Means of the outputs of normalised images x (N, channels, H, W) and of x with left and right exchanged; no map.

    All 2 N images are one batch: one pass through a graph that is as large as without them.
    """
    n = x.shape[0]
    both: Outputs = classifier(torch.cat([x, x.flip(3)]))
    features, logits = ((shown[:n] + shown[n:]) / 2 for shown in (both.features, both.logits))
    return both._replace(features=features, logits=logits, feature_map=None)
