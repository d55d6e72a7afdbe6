"""The stacks of strided convolutions: sizes, ranges, pixels."""

from __future__ import annotations

import pytest
import torch

from train.generators import convolutions


@pytest.mark.parametrize(
    ("height", "width", "size"), [(4, 4, 8), (8, 8, 8), (16, 9, 16), (28, 28, 32), (33, 20, 64), (224, 200, 64)]
)
def test_the_working_size_covers_the_image_up_to_64(height: int, width: int, size: int) -> None:
    assert convolutions.working_size(height, width) == size


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_up_undoes_the_shapes_of_down(size: int, channels: int) -> None:
    images = torch.rand(5, channels, size, size)
    small = convolutions.down(size, 4, channels)(images)
    assert small.shape == (5, convolutions.widths(size, 4)[0], 4, 4)
    back = convolutions.up(size, 4, channels)(small)
    assert back.shape == images.shape
    assert 0 <= back.min() < back.max() <= 1


def test_widths_double_at_each_halving() -> None:
    assert convolutions.widths(8, 5) == [5]
    assert convolutions.widths(64, 5) == [40, 20, 10, 5]


def test_pixels_survive_being_a_signal() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    signal = convolutions.to_signal(pixels)
    assert signal.shape == (2, 3, 16, 16)
    assert (signal.min(), signal.max()) == (0, 1)
    assert convolutions.to_pixels(signal).equal(pixels)
    assert convolutions.to_pixels(torch.full((1, 1, 2, 2), 0.499 / 255)).eq(0).all()
    assert convolutions.to_pixels(torch.full((1, 1, 2, 2), 0.501 / 255)).eq(1).all()


def test_resizing_is_none_where_the_size_fits() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert convolutions.resized(images, 16, 16) is images
    flat = torch.full((2, 3, 20, 12), 0.3)
    torch.testing.assert_close(convolutions.resized(flat, 8, 8), torch.full((2, 3, 8, 8), 0.3))
