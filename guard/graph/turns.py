"""Quarter turns of images, and what a classifier shows of all four of them in one pass.

The k-th turn is k quarters anticlockwise, numpy.rot90(image, k) of an image (H, W, channels). A turned image has the
image's own shape only where that is square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ConfigError

if TYPE_CHECKING:
    from .outputs import FeatureClassifier, Outputs

TURNS = 4  # the upright image among them


def check_square(height: int, width: int) -> None:
    """Raises ConfigError for images that a quarter turn gives another shape."""
    if height != width:
        raise ConfigError(
            f"images of {height} x {width} pixels do not keep their shape when they are turned by a quarter; give a "
            f"square size, such as image_size={min(height, width)}"
        )


def turned(images: Tensor, k: int, sides: tuple[int, int]) -> Tensor:
    """Images turned by k quarters anticlockwise; `sides` are the dimensions of H and W, in this order."""
    return torch.rot90(images, k, sides)


def with_turns(classifier: FeatureClassifier, x: Tensor) -> Outputs:
    """The outputs of normalised square images x (N, channels, H, W), and as feature map the features of their three
    quarter turns, side by side (N, 3 D).

    All 4 N images are one batch: one pass through a graph that is as large as without them.

    Raises:
        ConfigError: the images are not square.
    """
    check_square(*x.shape[2:])
    n = x.shape[0]
    outputs: Outputs = classifier(torch.cat([x, *(turned(x, k, (2, 3)) for k in range(1, TURNS))]))
    features = outputs.features
    others = features[n:].reshape(TURNS - 1, n, -1).transpose(0, 1).reshape(n, -1)
    return outputs._replace(features=features[:n], logits=outputs.logits[:n], feature_map=others)
