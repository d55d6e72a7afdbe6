"""The official augmentation of outliers."""

from __future__ import annotations

import numpy as np
import torch

from train.outliers.published_augmentation import (
    augment_outliers,
    autocontrast,
    enlarged,
    patch_corners,
    patches_spread,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shapes_seeds_and_that_something_happens() -> None:
    images = torch.randint(0, 256, (32, 12, 20, 1), dtype=torch.uint8)
    made = [augment_outliers(images, generator(seed)) for seed in (0, 0, 1)]
    assert made[0].shape == images.shape
    assert made[0].dtype == torch.uint8
    assert made[0].equal(made[1])
    assert not made[0].equal(made[2])
    assert not made[0].equal(images)


def test_autocontrast_stretches_each_channel() -> None:
    x = torch.tensor([[[[50.0, 100.0], [150.0, 100.0]], [[7.0, 7.0], [7.0, 7.0]]]])
    assert autocontrast(x)[0, 0].tolist() == [[0, 127.5], [255, 127.5]]
    assert autocontrast(x)[0, 1].tolist() == [[7, 7], [7, 7]]  # flat


def test_enlarging_keeps_the_centre_and_brings_nothing_in() -> None:
    ramp = torch.linspace(0, 90, 10).expand(2, 1, 10, 10)
    made = enlarged(ramp, torch.tensor([1.0, 1.5]))
    torch.testing.assert_close(made[0], ramp[0])
    torch.testing.assert_close(made[1, 0].mean(), ramp.mean())
    expected = 45 + (ramp[0, 0, 0] - 45) / 1.5
    torch.testing.assert_close(made[1, 0, 3, 1:-1], expected[1:-1], atol=1e-3, rtol=0)


def test_a_patch_lies_outside_the_mask_where_it_can() -> None:
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :10, :] = True  # free below row 10: the first free corner is (10, 0)
    masks[1, :, :] = True
    masks[1, 7, 9] = False  # the only pixel of background: the first patch (4 x 4, in steps of 2) that has it
    top, left = patch_corners(3, 16, 16, 4, masks.device, generator(), masks)
    assert (top.tolist(), left.tolist()) == ([10, 4, 0], [0, 6, 0])


def test_a_patch_fills_the_image() -> None:
    x = torch.arange(256.0).view(1, 1, 16, 16).expand(64, 1, 16, 16)
    masks = torch.ones(64, 16, 16, dtype=torch.bool)
    masks[:, 8:12, 4:8] = False
    made = patches_spread(x, generator(), masks)[:, 0]
    patch = x[0, 0, 8:12, 4:8].numpy()
    tiled = [image for image in made.numpy() if np.array_equal(image, np.tile(patch, (4, 4)))]
    assert 20 < len(tiled) < 44
    assert made.amin() >= patch.min()
    assert made.amax() <= patch.max()
    corners = patch_corners(500, 16, 16, 4, x.device, generator())
    assert {0, 12} <= set(corners[0].tolist()) <= set(range(13))  # anywhere, where there is no mask
