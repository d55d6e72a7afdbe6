"""Random crop and horizontal flip as batched tensor operations on uint8, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MOST_SHIFT = 4  # pixels


def usual_shift(side: int) -> int:
    """How far images of `side` pixels are shifted in training: 4 pixels from 32 on, as the published code has it for
    CIFAR's 32 pixels and for 224 alike (OpenOOD), and an eighth of smaller ones; at least 1."""
    return max(1, min(MOST_SHIFT, side // 8))


def augment(images: torch.Tensor, generator: torch.Generator, *, pad: int, flip: bool) -> torch.Tensor:
    """Shift each image by up to `pad` pixels (black comes in), and mirror half of them.

    The standard for small images (`usual_shift`). Leave `flip` out where left and right mean something
    (digits, letters). Draws come from `generator` alone; nothing waits for the device, and one gather does the work.

    Args:
        images: uint8 (N, H, W, C).
        generator: on the images' device.
        pad: largest shift in pixels, >= 0.
        flip: mirror each image with probability 1/2.

    Returns:
        uint8 (N, H, W, C), a new tensor (the input itself where pad is 0 and flip is False).
    """
    n, height, width, channels = images.shape
    if pad == 0 and not flip:
        return images
    device = images.device
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = torch.randint(0, 2, (n, 1), generator=generator, device=device, dtype=torch.bool)
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if pad:
        offset = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator, device=device)
        rows, columns = rows + offset[0], columns + offset[1]
        images = F.pad(images, (0, 0, pad, pad, pad, pad))
    # one flat gather per image: half the time of indexing with three index tensors
    index = rows[:, :, None] * images.shape[2] + columns[:, None, :]  # (N, H, W) into the padded image's pixels
    pixels = images.reshape(n, -1, channels)
    return pixels.gather(1, index.view(n, -1, 1).expand(-1, -1, channels)).view(n, height, width, channels)
