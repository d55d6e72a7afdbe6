"""Rows of small images as one PNG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor


def png_grid(rows: list[Tensor], *, scale: int = 2, gap: int = 2) -> bytes:
    """uint8 rows, each (n, H, W, channels) of one size, under one another; `scale` enlarges by whole pixels."""
    n, (height, width, channels) = max(len(row) for row in rows), rows[0].shape[1:]
    sheet = np.full((len(rows) * (height + gap) - gap, n * (width + gap) - gap, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row.cpu().numpy()):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    buffer = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(
        buffer, "png", optimize=True
    )
    return buffer.getvalue()
