"""Smooth random fields, of which warps and masks are made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT = 1e-3  # standard deviation below which a field is left flat


def smooth_fields(cells: Tensor, height: int, width: int, most: int, generator: torch.Generator) -> Tensor:
    """Fields (K, H, W) of mean 0 and standard deviation 1, each a bicubic surface through a grid of normal numbers.

    Args:
        cells: int64 (K,), numbers per side of each field's grid, from 2 to `most`: the more, the finer.
        most: the largest of them that there may be, known on the host.
    """
    count, device = len(cells), cells.device
    grid = torch.randn(count, 1, most, most, generator=generator, device=device)
    # each takes the first `cells` rows and columns of its grid: sampling points, not slices, so that all are one call
    last = (2 * (cells - 1) / (most - 1) - 1).view(-1, 1, 1)  # where its last number lies, in [-1, 1]
    down = torch.linspace(0, 1, height, device=device).view(1, -1, 1) * (last + 1) - 1
    across = torch.linspace(0, 1, width, device=device).view(1, 1, -1) * (last + 1) - 1
    at = torch.stack(torch.broadcast_tensors(across, down), -1)  # (K, H, W, 2) of (x, y)
    field = F.grid_sample(grid, at, mode="bicubic", padding_mode="border", align_corners=True)[:, 0]
    field = field - field.mean((1, 2), keepdim=True)
    scaled: Tensor = field / field.std((1, 2), keepdim=True).clamp_min(FLAT)
    return scaled
