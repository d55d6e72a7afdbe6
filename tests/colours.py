"""Pictures of one colour each, and a classifier that knows its colours without training: what it answers is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

NAMES = ["red", "green", "blue", "yellow", "cyan", "pink", "white", "black", "orange", "violet", "moss", "brick"]
COLOURS = np.array(
    [
        *((220, 20, 20), (20, 220, 20), (20, 20, 220), (220, 220, 20), (20, 220, 220), (220, 20, 220)),
        *((240, 240, 240), (5, 5, 5), (240, 120, 0), (120, 0, 240), (60, 160, 60), (160, 60, 60)),
    ]
)
SIDE = 8
INPUT: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "device": "cpu"}  # of `guard.fit`


def pictures(classes: int, each: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (classes * each, 8, 8, 3) with a little noise, and int64 labels: the index of the colour."""
    labels = np.repeat(np.arange(classes), each)
    noise = np.random.default_rng(seed).integers(-5, 6, (len(labels), SIDE, SIDE, 3))
    return (COLOURS[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels


def write_folders(root: Path, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Path:
    """A folder per class, called `names[label]`."""
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row:04}.png")
    return root


class Nearest(nn.Module):
    """f_k = 2 c_k x - |c_k|^2 of the mean colour x: the nearest colour has the largest logit. `logits[k]` is of
    `COLOURS[order[k]]`."""

    def __init__(self, order: Sequence[int], mean: float = 0.5, std: float = 0.5, bgr: bool = False) -> None:
        super().__init__()
        colours = (torch.tensor(COLOURS[list(order)], dtype=torch.float32) / 255 - mean) / std
        colours = colours.flip(1) if bgr else colours
        self.fc = nn.Linear(3, len(order))
        with torch.no_grad():
            self.fc.weight.copy_(20 * colours)
            self.fc.bias.copy_(-10 * (colours**2).sum(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))
