"""A few images of a data set, for checks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData

LOOKED_AT = 8  # images that show what a model is
CHECKED = 32  # images that show what it does


def sample(data: ImageData, most: int) -> Tensor:
    """uint8 (n, H, W, channels), n at most `most`, evenly spaced: a folder's images are sorted by class."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(data.take(rows)))
