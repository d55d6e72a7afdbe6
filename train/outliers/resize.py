"""Images of a generator brought to the size of the training images, by Pillow's antialiased kernels.

The kernel is an option because it leaves traces that a network sees: interpolation differences alone can flip an
out-of-distribution decision, and NCIS draws a random one per image in training so that none gives outliers away.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guard.errors import ConfigError
from guard.record import Record, option

ResizeKernel = Literal["nearest", "bilinear", "bicubic", "lanczos", "both"]

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EACH: dict[str, tuple[str, ...]] = {"both": ("nearest", "bilinear")}


class ResizeOptions(Record):
    """How generated images come to the size of the training images."""

    resize_kernel: ResizeKernel = option(
        "bilinear",
        "Pillow kernel by which generated images are resized; 'both' keeps each twice, by nearest and by bilinear.",
    )
    resize_via: int | None = option(
        None,
        "Side in pixels that larger images are brought to first, bilinearly; the published scripts keep Stable "
        "Diffusion's 512 pixels as 256.",
        ge=8,
    )


def kernels(kernel: ResizeKernel) -> tuple[str, ...]:
    """The kernels that every image is resized with: two for "both", else the one.

    Raises:
        ConfigError: no such kernel.
    """
    if kernel not in _PILLOW and kernel not in _EACH:
        raise ConfigError(f"resize_kernel must be one of {', '.join((*_PILLOW, *_EACH))}, got {kernel!r}")
    return _EACH.get(kernel, (kernel,))


def check_via(via: int | None, own: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Refuse a way that is none.

    Raises:
        ConfigError: `via` is not between the sizes (H, W) that images have and get.
    """
    if via is not None and not max(wanted) < via < min(own):
        raise ConfigError(
            f"resize_via={via} is not read where images of {own[0]} x {own[1]} pixels become "
            f"{wanted[0]} x {wanted[1]}; "
            "drop it, or give a side between the two"
        )


def copies(own: tuple[int, int], wanted: tuple[int, int], kernel: ResizeKernel) -> int:
    """How many images `resized` makes of each: one per kernel, but only one where there is nothing to resize."""
    return len(kernels(kernel)) if own != wanted else 1


def resized(
    images: Tensor, height: int, width: int, kernel: ResizeKernel = "bilinear", via: int | None = None
) -> Tensor:
    """Images at another size, as Pillow resizes them. Runs on the host, image by image.

    Args:
        images: uint8 (N, H, W, channels), channels 1 or 3.
        kernel: "nearest", "bilinear", "bicubic", "lanczos"; or "both".
        via: side of a square that they are brought to first, by "bilinear".

    Returns:
        uint8 (N, height, width, channels) on the device of `images`, unchanged where they are of that size. Else, for
        "both" (2 N, ...): image i is at 2 i by nearest and at 2 i + 1 by bilinear
        (``parents.repeat_interleave(copies(...), 0)`` goes with them).
    """
    each = kernels(kernel)
    if images.shape[1:3] == (height, width):
        return images
    arrays = images.cpu().numpy()
    if via is not None:
        arrays = np.array([_one(image, via, via, "bilinear").reshape(via, via, -1) for image in arrays])
    made = [_one(image, height, width, name) for image in arrays for name in each]
    shape = (len(made), height, width, images.shape[-1])
    return torch.from_numpy(np.stack(made).reshape(shape) if made else np.zeros(shape, np.uint8)).to(images.device)


def _one(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    grey = image.shape[-1] == 1  # Pillow's grey images have no channel axis
    pixels = Image.fromarray(image[..., 0] if grey else image)
    return np.asarray(pixels.resize((width, height), _PILLOW[kernel]))
