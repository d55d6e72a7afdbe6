"""From an image of any size to the input of a guard: resizing, cropping, channels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from guard.manifest import Preprocess
from guard.preprocess import crop_box, to_input
from tests.guard.image_files import PHOTO, encoded


def test_right_size_passes_through_bit_for_bit() -> None:
    config = Preprocess(height=36, width=52, crop_scale=1.5)
    for source in (PHOTO, PHOTO[::-1], Image.fromarray(PHOTO), encoded(Image.fromarray(PHOTO), "PNG")):
        got = to_input(source, config)
        expected = source if isinstance(source, np.ndarray) else PHOTO
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretch_is_pillows_resize(interpolation: str) -> None:
    config = Preprocess(height=17, width=20, resize="stretch", interpolation=interpolation)
    filter_ = Image.Resampling[interpolation.upper()]
    assert np.array_equal(to_input(PHOTO, config), np.asarray(Image.fromarray(PHOTO).resize((20, 17), filter_)))


@pytest.mark.parametrize("size", [(52, 36), (36, 52), (300, 200), (41, 40), (224, 225), (7, 90)])
@pytest.mark.parametrize(("side", "crop_scale"), [(32, 1.0), (24, 256 / 224), (48, 1.0)])
def test_crop_is_scale_then_centre_crop(size: tuple[int, int], side: int, crop_scale: float) -> None:
    """Against torchvision's two steps on the same image."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    steps = transforms.Compose([transforms.Resize(round(side * crop_scale)), transforms.CenterCrop(side)])
    got = to_input(image, Preprocess(height=side, width=side, crop_scale=crop_scale))
    assert np.abs(got.astype(int) - np.asarray(steps(image))).max() <= 1


@pytest.mark.parametrize("size", [(52, 36), (300, 201), (41, 40), (31, 90)])
@pytest.mark.parametrize(("scaled", "side"), [(38, 33), (39, 32), (39, 33)])
def test_rounding_down_cuts_where_hugging_face_does(size: tuple[int, int], scaled: int, side: int) -> None:
    """An odd margin of 2k + 1 leaves k pixels before the crop for every k, where rounding half to even alternates."""
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    width, height = (scaled * n // min(size) for n in size)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    config = Preprocess(height=side, width=side, crop_scale=scaled / side, crop_like="hugging_face")
    assert np.array_equal(to_input(image, config), np.asarray(expected))


@pytest.mark.parametrize("size", [(52, 36), (300, 200), (41, 40)])
def test_stretch_then_crop(size: tuple[int, int]) -> None:
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    expected = image.resize((40, 48), Image.Resampling.BILINEAR).crop((4, 5, 35, 42))
    config = Preprocess(height=37, width=31, resize="stretch", crop_scale=1.29, crop_like="hugging_face")
    assert np.array_equal(to_input(image, config), np.asarray(expected))


def test_crop_to_a_rectangle_covers_it() -> None:
    assert crop_box((100, 100), (20, 10), 1.0) == (0, 25, 100, 75)
    assert crop_box((100, 100), (10, 20), 1.0) == (25, 0, 75, 100)
    expected = np.asarray(ImageOps.fit(Image.fromarray(PHOTO), (26, 10), Image.Resampling.BILINEAR))
    got = to_input(PHOTO, Preprocess(height=10, width=26))
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("crop_like", ["torchvision", "hugging_face"])
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (1, 1)])
def test_extreme_shapes_cost_nothing(shape: tuple[int, int], crop_like: str) -> None:
    config = Preprocess(height=224, width=224, crop_scale=1.15, crop_like=crop_like)
    got = to_input(np.full(shape, 7, np.uint8), config)
    assert got.shape == (224, 224, 3)
    assert (got == 7).all()


def test_channels() -> None:
    grey = PHOTO[..., 0]
    for source in (grey, grey[..., None], Image.fromarray(grey)):
        three = to_input(source, Preprocess(height=36, width=52, channels=3))
        assert np.array_equal(three, np.repeat(grey[..., None], 3, axis=2))
        assert np.array_equal(to_input(source, Preprocess(height=36, width=52, channels=1)), grey[..., None])
    one = to_input(PHOTO, Preprocess(height=36, width=52, channels=1))
    assert one.shape == (36, 52, 1)
    assert np.abs(one[..., 0] - PHOTO @ [0.299, 0.587, 0.114]).max() <= 1


def test_grey_is_resized_as_rgb_would_be() -> None:
    grey = Image.fromarray(PHOTO[..., 0])
    config = Preprocess(height=16, width=16)
    assert np.array_equal(to_input(grey, config), to_input(grey.convert("RGB"), config))


def test_jpeg_is_decoded_in_full() -> None:
    """No draft mode: a large JPEG scaled down equals decoding it whole first."""
    large = Image.fromarray(PHOTO).resize((640, 480), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG")
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize((40, 30), Image.Resampling.BILINEAR)
    assert np.array_equal(to_input(data, Preprocess(height=30, width=40, resize="stretch")), np.asarray(whole))
