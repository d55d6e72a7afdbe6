"""The values of `augment=`: sizes, seeds, and what a random part of an image is."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from guard.requests import Augmentation
from train.engine.augmentations import augmented, resized_crop

IMAGES = torch.randint(0, 256, (6, 16, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("how", get_args(Augmentation))
def test_each_keeps_shape_and_type_and_draws_from_its_generator_alone(how: str) -> None:
    torch.manual_seed(5)
    made = augmented(IMAGES, how, generator())
    after = torch.rand(1)
    torch.manual_seed(6)
    again = augmented(IMAGES, how, generator())
    assert (made.shape, made.dtype) == (IMAGES.shape, torch.uint8)
    assert made.equal(again)
    torch.manual_seed(5)
    assert torch.rand(1).equal(after)  # the global generator stands where it stood
    assert made.equal(IMAGES) == (how == "none")
    assert augmented(IMAGES[:0], how, generator()).shape == (0, 16, 12, 3)


def test_a_random_part_has_the_area_and_the_sides_that_are_published() -> None:
    """Told from a ramp: the range of x and of y that an image shows."""
    side = 64
    x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    ramp = torch.stack([3 * x, 3 * y, 0 * x], -1).to(torch.uint8).expand(400, -1, -1, -1)
    made = resized_crop(ramp, generator()).float()
    shown = [(made[:, :, -1, 0] - made[:, :, 0, 0]).mean(1), (made[:, -1, :, 1] - made[:, 0, :, 1]).mean(1)]
    across, down = (one.abs() / (3 * (side - 1)) for one in shown)
    area, ratio = across * down, across / down
    assert area.min() == pytest.approx(0.08, abs=0.02)
    assert area.max() > 0.9
    assert area.mean() == pytest.approx(0.53, abs=0.05)
    assert ratio.log().abs().max() < 0.35  # log 4/3 is 0.29
    assert (shown[0] < 0).float().mean() == pytest.approx(0.5, abs=0.08)  # mirrored
    assert (shown[1] > 0).all()
