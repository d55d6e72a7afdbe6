"""Resampling against Pillow, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from train.augmentations.base import AugmentContext
from train.augmentations.resample import KERNELS, Resample, matrices, passed, resized_and_back

PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def images(height: int, width: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(32, 32), (17, 26)])
def test_a_pass_is_pillows_resize(size: tuple[int, int], kernel: str) -> None:
    height, width = size
    given = images(height, width)
    small = [
        (height, width),
        (height // 2, width // 2),
        *((round(height / f), round(width / f)) for f in (1.04, 1.3, 1.7)),
    ]
    how = PILLOW[kernel]
    for h, w in small:
        for start, end in (((height, width), (h, w)), ((h, w), (height, width))):
            x = torch.zeros(len(given), 3, height, width)
            x[:, :, : start[0], : start[1]] = torch.from_numpy(given[:, :, : start[0], : start[1]].astype(np.float32))
            by = [
                matrices(kernel, torch.full((6,), b), torch.full((6,), a), side)
                for b, a, side in zip(start, end, (height, width), strict=True)
            ]
            made = passed(x, *by)
            for one, mine in zip(given, made, strict=True):
                pillow = Image.fromarray(one[:, : start[0], : start[1]].transpose(1, 2, 0))
                expected = np.asarray(pillow.resize(end[::-1], how)).transpose(2, 0, 1)
                difference = np.abs(mine[:, : end[0], : end[1]].numpy() - expected)
                if kernel in ("nearest", "box"):  # an edge in the middle of the image: its pixels may go to either side
                    for axis, size in enumerate(end, 1):
                        difference = np.delete(difference, [size // 2 - 1, size // 2], axis)
                assert difference.max() <= 1
                assert (difference > 0).mean() < 0.05  # halves
            assert (made[:, :, end[0] :] == 0).all()
            assert (made[:, :, :, end[1] :] == 0).all()


def test_no_factor_changes_nothing() -> None:
    x = torch.from_numpy(images(12, 9).astype(np.float32))
    assert resized_and_back(x, torch.ones(6), torch.Generator().manual_seed(0)).equal(x)


def test_all_pairs_of_kernels_are_drawn_and_each_image_has_a_factor_of_its_own() -> None:
    noise = torch.from_numpy(images(16, 16, 1)).float().expand(400, -1, -1, -1)
    made = resized_and_back(noise, torch.full((400,), 1.6), torch.Generator().manual_seed(0))
    assert len({m.numpy().tobytes() for m in made}) in (12, 16)  # enlarging, a box may be the nearest pixel
    made = resized_and_back(noise, torch.linspace(1, 2, 400), torch.Generator().manual_seed(0))
    assert len({m.numpy().tobytes() for m in made}) > 60


@pytest.mark.parametrize("count", [1, 7, 40])
def test_half_of_the_images_stay(count: int) -> None:
    given = torch.from_numpy(images(16, 12, count)).permute(0, 2, 3, 1).contiguous()
    step = Resample(AugmentContext(16, 12, 3, (0.0,) * 3, 0, torch.device("cpu")))
    same = [(step(given, torch.Generator().manual_seed(s)) == given).all((1, 2, 3)) for s in range(60)]
    share = torch.stack(same).float().mean()
    assert 0.4 < share < 0.7  # a factor near 1 leaves them, too
    assert step(given, torch.Generator().manual_seed(0)).float().mean() == pytest.approx(given.float().mean(), abs=3)
