"""Cutout's hole."""

from __future__ import annotations

import pytest
import torch

from train.augmentations.base import AugmentContext
from train.augmentations.cutout import Cutout, squares


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 16), (16, 16, 8), (20, 33, 10), (9, 14, 4)])
def test_the_hole_is_a_square_around_any_pixel_cut_to_the_image(height: int, width: int, side: int) -> None:
    holes = squares(4000, height, width, torch.Generator().manual_seed(0))
    seen = set()
    expected = {}
    for y in range(height):
        for x in range(width):
            hole = torch.zeros(height, width, dtype=torch.bool)
            hole[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = True
            expected[hole.numpy().tobytes()] = (y, x)
    for hole in holes:
        assert hole.numpy().tobytes() in expected
        seen.add(expected[hole.numpy().tobytes()])
    assert len(seen) > 0.9 * min(len(expected), 4000 * 0.6)
    share = sum(torch.frombuffer(bytearray(h), dtype=torch.bool).float().mean().item() for h in expected) / len(
        expected
    )
    assert holes.float().mean().item() == pytest.approx(share, rel=0.05)


def test_it_shows_the_mean_colour_and_leaves_the_rest() -> None:
    context = AugmentContext(32, 32, 3, (10.4, 120.6, 255.0), 0, torch.device("cpu"))
    images = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8)
    made = Cutout(context)(images, torch.Generator().manual_seed(3))
    hole = squares(50, 32, 32, torch.Generator().manual_seed(3))
    assert made[~hole].equal(images[~hole])
    assert (made[hole] == torch.tensor([10, 121, 255])).all()
    assert 0.12 < hole.float().mean() < 0.25  # a quarter, less what lies outside
