"""The user's own pictures for PixMix: ``mixing_set=``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData, load
from guard.errors import ConfigError
from guard.manifest import Preprocess

from .base import chain
from .pictures import picture_sides
from .pixmix import PixMix

BYTES = 2**29  # that the pictures of a training may take


def check_mixing_set(given: Any, augment: str) -> None:
    """Refuse pictures that nothing would mix in.

    Raises:
        ConfigError: no step of ``augment=`` reads them.
    """
    if given is not None and (augment == "auto" or PixMix not in chain(augment)):
        raise ConfigError(f"mixing_set= is not read with augment={augment!r}; drop it, or give augment='pixmix'")


def mixing_set(given: Any, preprocess: Preprocess, seed: int, workers: int | None = None) -> ImageData | None:
    """The pictures in any form that `load` takes, an eighth larger than the images; None for None.

    Of more than 512 MiB of pixels, as many as that are drawn by `seed`.
    """
    if given is None:
        return None
    height, width = picture_sides(preprocess.height, preprocess.width)
    larger = preprocess.model_copy(update={"height": height, "width": width, "resize": "crop", "resize_to": None})
    most = max(1, BYTES // (height * width * preprocess.channels))
    return load(given, preprocess=larger, labelled=False, workers=workers, max_images=most, draw=seed)


def as_tensor(pictures: ImageData) -> Tensor:
    """uint8 (M, H, W, channels) on the CPU."""
    return torch.from_numpy(np.concatenate([np.asarray(images) for images, _ in pictures.batches(256)]))
