"""The demo's out-of-distribution images are what they say, and follow from their seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from guard.demo import images as demo_images
from guard.demo.images import letters, photo_patches, smooth_noise, uniform_noise

MAKERS = [photo_patches, uniform_noise, smooth_noise, letters]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("side", [8, 32])
def test_shape_type_and_seed(make: Callable[..., np.ndarray], side: int) -> None:
    images = make(30, side, 1)
    assert images.dtype == np.uint8
    assert images.shape == (30, side, side) if make is letters else (30, side, side, 3)
    np.testing.assert_array_equal(images, make(30, side, 1))
    assert (images != make(30, side, 2)).any()
    assert len({image.tobytes() for image in images}) == 30


def test_uniform_noise_is_uniform_and_independent() -> None:
    values = uniform_noise(200, 16).reshape(200, -1).astype(float)
    counts = np.bincount(uniform_noise(200, 16).ravel(), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 330  # chi-square with 255 degrees of freedom: p = 0.001
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_smooth_noise_has_its_power_in_low_frequencies_and_uses_the_whole_range() -> None:
    images = smooth_noise(20, 32)
    assert (images.min((1, 2)) == 0).all()
    assert (images.max((1, 2)) == 255).all()
    centred = images[..., 0] - images[..., 0].mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred)) ** 2).sum(0)
    low = np.minimum(np.arange(32), 32 - np.arange(32)) <= 5
    assert power[np.ix_(low, low)].sum() > 0.9 * power.sum()  # white noise: (11 / 32)^2 = 0.12


def test_photo_patches_come_from_both_photographs() -> None:
    """A patch that is cut without scaling is found in its photograph, pixel by pixel."""
    from sklearn.datasets import load_sample_images

    temple, flower = load_sample_images().images
    patches = photo_patches(40, min(temple.shape[:2]))  # the only width left is the photograph's height
    for patch, photo in ((patches[0], temple), (patches[1], flower)):
        windows = (photo[:, x : x + patch.shape[1]] for x in range(photo.shape[1] - patch.shape[1] + 1))
        assert any(np.array_equal(window, patch) for window in windows)


def test_letters_are_white_on_black_and_never_look_like_digits() -> None:
    images = letters(len(demo_images.LETTERS), 32)
    assert not set(demo_images.LETTERS) & set("IOSZ")
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all()
    ink = (images > 127).mean((1, 2))
    assert ((ink > 0.03) & (ink < 0.4)).all()
    assert (images.max((1, 2)) > 200).all()
