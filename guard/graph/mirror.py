"""What a classifier shows of an image and its mirror image together: means of features, logits and summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .layer_maps import with_layers

if TYPE_CHECKING:
    from ..scores import Score
    from .outputs import FeatureClassifier, Outputs


def with_mirror(classifier: FeatureClassifier, x: Tensor, score: Score) -> Outputs:
    """Means of the outputs of normalised images x (N, channels, H, W) and of x with left and right exchanged.

    The map is the mean summary of the layers that the score reads, and None where it reads none. All 2 N images are one
    batch: one pass through a graph that is as large as without them.
    """
    n = x.shape[0]
    both = with_layers(classifier, torch.cat([x, x.flip(3)]), score)

    def mean(shown: Tensor) -> Tensor:
        return (shown[:n] + shown[n:]) / 2

    summary = mean(both.feature_map) if score.layers and both.feature_map is not None else None
    return both._replace(features=mean(both.features), logits=mean(both.logits), feature_map=summary)
