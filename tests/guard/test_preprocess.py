"""From an image of any size to the input of a guard: resizing, cropping, channels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from guard.manifest import Preprocess
from guard.preprocess import to_input
from guard.resizing import plan
from tests.guard.image_files import PHOTO, encoded


def test_right_size_passes_through_bit_for_bit() -> None:
    config = Preprocess(height=36, width=52)
    for source in (PHOTO, PHOTO[::-1], Image.fromarray(PHOTO), encoded(Image.fromarray(PHOTO), "PNG")):
        got = to_input(source, config)
        expected = source if isinstance(source, np.ndarray) else PHOTO
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_squash_is_pillows_resize(interpolation: str) -> None:
    config = Preprocess(height=17, width=20, resize="squash", interpolation=interpolation)
    filter_ = Image.Resampling[interpolation.upper()]
    assert np.array_equal(to_input(PHOTO, config), np.asarray(Image.fromarray(PHOTO).resize((20, 17), filter_)))


@pytest.mark.parametrize("size", [(52, 36), (36, 52), (300, 200), (41, 40), (224, 225), (7, 90), (24, 24)])
@pytest.mark.parametrize(("side", "scaled"), [(32, 32), (24, 27), (48, 48), (24, 20)])
def test_crop_is_scale_then_centre_crop(size: tuple[int, int], side: int, scaled: int) -> None:
    """Against torchvision's two steps on the same image, to the last bit; also where the image is smaller."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    steps = transforms.Compose([transforms.Resize(scaled), transforms.CenterCrop(side)])
    got = to_input(image, Preprocess(height=side, width=side, resize_to=(scaled, scaled)))
    assert np.array_equal(got, np.asarray(steps(image)))


def test_an_image_of_the_inputs_size_is_resampled_where_the_input_is_a_cut_of_it() -> None:
    """As an array or a file, as torchvision's Resize(40) and CenterCrop(36) do."""
    image = Image.fromarray(PHOTO).resize((36, 36), Image.Resampling.BICUBIC)
    expected = image.resize((40, 40), Image.Resampling.BILINEAR).crop((2, 2, 38, 38))
    for source in (image, np.asarray(image), encoded(image, "PNG")):
        assert np.array_equal(
            to_input(source, Preprocess(height=36, width=36, resize_to=(40, 40))), np.asarray(expected)
        )


@pytest.mark.parametrize("size", [(52, 36), (36, 52), (7, 90), (300, 11), (20, 20)])
def test_pad_fits_the_image_into_the_input(size: tuple[int, int]) -> None:
    """All of it is seen, in its own proportions, in the middle of the colour asked for."""
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    config = Preprocess(height=24, width=32, resize="pad", fill=(10, 20, 30))
    factor = min(32 / size[0], 24 / size[1])
    inner = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    expected = Image.new("RGB", (32, 24), (10, 20, 30))
    corner = ((32 - inner[0]) // 2, (24 - inner[1]) // 2)
    expected.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
    assert np.array_equal(to_input(image, config), np.asarray(expected))
    assert np.array_equal(to_input(np.asarray(image), config), np.asarray(expected))
    grey = to_input(image, Preprocess(height=24, width=32, channels=1, resize="pad", fill=(99,)))
    assert grey.shape == (24, 32, 1)
    assert (grey[0, 0, 0] == 99) == (corner != (0, 0))


OLDER = ("torchvision", "hugging_face")


@pytest.mark.parametrize("crop_like", OLDER)
def test_guards_of_format_2_keep_their_pixels(crop_like: str) -> None:
    """A crop_scale in place of resize_to, "stretch" for "squash", an image of the input's size untouched; the part that
    is kept was resampled alone."""
    old = {"height": 24, "width": 24, "channels": 3, "interpolation": "bilinear", "background": 255}
    config = Preprocess.model_validate({**old, "resize": "crop", "crop_scale": 1.125, "crop_like": crop_like})
    assert Preprocess.model_validate_json(config.model_dump_json()) == config
    same = Image.fromarray(PHOTO).resize((24, 24))
    assert np.array_equal(to_input(same, config), np.asarray(same))
    wide = Image.fromarray(PHOTO).resize((61, 40))
    whole = wide.resize((27 * 61 // 40, 27), Image.Resampling.BILINEAR).crop((8, 1, 32, 25))
    box = (8 * 61 / 41, 2 * 40 / 27, 32 * 61 / 41, 26 * 40 / 27)
    alone = wide.resize((24, 24), Image.Resampling.BILINEAR, box=box)
    assert np.array_equal(to_input(wide, config), np.asarray(whole if crop_like == "hugging_face" else alone))
    stretch = Preprocess.model_validate({**old, "resize": "stretch", "crop_scale": 1.0, "crop_like": crop_like})
    assert np.array_equal(to_input(wide, stretch), np.asarray(wide.resize((24, 24), Image.Resampling.BILINEAR)))
    assert stretch.resize == "squash"


@pytest.mark.parametrize("size", [(52, 36), (300, 201), (41, 40), (31, 90)])
@pytest.mark.parametrize(("scaled", "side"), [(38, 33), (39, 32), (39, 33)])
def test_rounding_down_cuts_where_hugging_face_does(size: tuple[int, int], scaled: int, side: int) -> None:
    """An odd margin of 2k + 1 leaves k pixels before the crop for every k, where rounding half to even alternates."""
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    width, height = (scaled * n // min(size) for n in size)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    config = Preprocess(height=side, width=side, resize_to=(scaled, scaled), crop_like="hugging_face")
    assert np.array_equal(to_input(image, config), np.asarray(expected))


@pytest.mark.parametrize("size", [(52, 36), (300, 200), (41, 40)])
def test_squash_then_crop(size: tuple[int, int]) -> None:
    image = Image.fromarray(PHOTO).resize(size, Image.Resampling.BICUBIC)
    expected = image.resize((40, 48), Image.Resampling.BILINEAR).crop((4, 5, 35, 42))
    config = Preprocess(height=37, width=31, resize="squash", resize_to=(48, 40), crop_like="hugging_face")
    assert np.array_equal(to_input(image, config), np.asarray(expected))


def test_crop_to_a_rectangle_covers_it() -> None:
    assert plan((100, 100), Preprocess(height=10, width=20)).box == (0, 25, 100, 75)
    assert plan((100, 100), Preprocess(height=20, width=10)).box == (25, 0, 75, 100)
    expected = np.asarray(ImageOps.fit(Image.fromarray(PHOTO), (26, 10), Image.Resampling.BILINEAR))
    got = to_input(PHOTO, Preprocess(height=10, width=26))
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("crop_like", ["torchvision", "hugging_face"])
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (1, 1)])
def test_extreme_shapes_cost_nothing(shape: tuple[int, int], crop_like: str) -> None:
    config = Preprocess(height=224, width=224, resize_to=(258, 258), crop_like=crop_like)
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
    assert np.array_equal(to_input(data, Preprocess(height=30, width=40, resize="squash")), np.asarray(whole))
