"""Resizing: Pillow's own pixels for every kernel, both kernels side by side, grey images, equal sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from guard.errors import ConfigError
from train.outliers.resize import ResizeOptions, check_via, copies, kernels, resized

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def images(channels: int, count: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 24, 20, channels), dtype=np.uint8))


def by_pillow(image: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """Through Pillow's modes by name: "L" has no channel axis."""
    mode = "L" if image.shape[-1] == 1 else "RGB"
    picture = Image.frombytes(mode, (image.shape[1], image.shape[0]), image.tobytes())
    done = picture.resize((size[1], size[0]), Image.Resampling(PILLOW[kernel]))
    return np.frombuffer(done.tobytes(), np.uint8).reshape(*size, image.shape[-1])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (32, 48)], ids=["smaller", "larger"])
@pytest.mark.parametrize("kernel", list(PILLOW))
def test_the_pixels_are_pillows(kernel: Any, size: tuple[int, int], channels: int) -> None:
    given = images(channels)
    made = resized(given, *size, kernel)
    assert made.dtype == torch.uint8
    expected = np.stack([by_pillow(image, size, kernel) for image in given.numpy()])
    assert made.numpy().tolist() == expected.tolist()


def test_both_keeps_every_image_by_nearest_and_by_bilinear() -> None:
    given = images(3)
    both = resized(given, 9, 7, "both")
    assert both.shape == (6, 9, 7, 3)
    assert both[0::2].equal(resized(given, 9, 7, "nearest"))
    assert both[1::2].equal(resized(given, 9, 7, "bilinear"))
    assert kernels("both") == ("nearest", "bilinear")


@pytest.mark.parametrize("kernel", [*PILLOW, "both"])
def test_images_of_that_size_stay_as_they_are(kernel: Any) -> None:
    given = images(1)
    assert resized(given, 24, 20, kernel).equal(given)
    assert copies((24, 20), (24, 20), kernel) == 1
    assert copies((24, 20), (24, 21), kernel) == len(kernels(kernel))


def test_no_images_are_no_images() -> None:
    assert resized(images(3, 0), 9, 7, "both").shape == (0, 9, 7, 3)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ConfigError, match=r"resize_kernel must be one of nearest, .*, both, got 'cubic'"):
        resized(images(3), 9, 7, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="resize"):
        ResizeOptions(resize_kernel="cubic")  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", ["nearest", "both"])
def test_images_can_come_by_way_of_another_size(kernel: Any, channels: int) -> None:
    """As the published scripts keep them: by Pillow's bilinear, twice where the kernel is."""
    given = images(channels)
    half = np.stack([by_pillow(image, (12, 12), "bilinear") for image in given.numpy()])
    assert resized(given, 9, 7, kernel, 12).equal(resized(torch.from_numpy(half), 9, 7, kernel))
    assert not resized(given, 9, 7, kernel, 12).equal(resized(given, 9, 7, kernel))


@pytest.mark.parametrize(
    ("via", "own", "wanted"), [(256, (16, 16), (16, 16)), (24, (64, 64), (32, 24)), (64, (64, 96), (32, 32))]
)
def test_a_way_that_is_none_is_refused(via: int, own: tuple[int, int], wanted: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"resize_via={via} is not read where images of {own[0]} x {own[1]} pixels"):
        check_via(via, own, wanted)
    check_via(None, own, wanted)
    check_via(256, (512, 512), (32, 32))
