"""The official augmentation of outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomAffine
from torchvision.transforms.functional import affine as affine_of

from guard.data import load
from train.outliers.base import IDBatch
from train.outliers.published_augmentation import (
    AugmentedAnew,
    augment_outliers,
    autocontrast,
    enlarged,
    patch_corners,
    patches_spread,
)
from train.outliers.store.drawing import Given


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


@pytest.mark.parametrize(("height", "width"), [(32, 32), (13, 20)])
def test_enlarging_is_torchvisions_random_affine_pixel_by_pixel(height: int, width: int) -> None:
    """Its default interpolation, nearest; on PIL images, as the official code calls it. (At a factor of exactly 1.5
    places fall on edges of pixels, where PIL's sum of steps rounds to either side.)"""
    images = np.random.default_rng(0).integers(0, 256, (20, height, width, 3), dtype=np.uint8)
    scale = torch.cat([torch.ones(1), torch.empty(19).uniform_(1, 1.5, generator=generator())])
    made = enlarged(torch.from_numpy(images).permute(0, 3, 1, 2).float(), scale).permute(0, 2, 3, 1).byte().numpy()
    affine = RandomAffine(0, scale=(1.0, 1.5))
    for image, factor, ours in zip(images, scale.tolist(), made, strict=True):
        theirs = affine_of(Image.fromarray(image), 0.0, [0, 0], factor, [0.0, 0.0], affine.interpolation)
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_outliers_are_augmented_anew_at_each_visit() -> None:
    data = load((np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8), np.arange(8) % 2))
    given = AugmentedAnew(Given(data, 8))
    batch = IDBatch(torch.zeros(2, 12, 12, 3, dtype=torch.uint8), torch.arange(2))
    seen = []
    for seed in (0, 0, 1):
        given.start_epoch(1, generator(seed))
        seen.append(given.sample(batch, generator(seed)))
    assert seen[0].data.equal(seen[1].data)
    assert not seen[0].data.equal(seen[2].data)
    assert seen[0].rows is None  # features of the pool's images are not theirs
    assert given.pool() is None


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
