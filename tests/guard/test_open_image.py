"""A zoo of odd image files, each made here with Pillow, against what its pixels must become."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guard.errors import ImageError
from guard.preprocess import header_size, open_image
from tests.guard.image_files import PHOTO, RNG, encoded, pixels, png_chunk


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(PHOTO), kind, exif=exif, **options)
    stored = PHOTO if kind != "JPEG" else np.asarray(Image.open(io.BytesIO(data)))
    # the definition of each value in the EXIF standard, as numpy operations on (row, column)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert np.array_equal(pixels(data), upright)
    assert header_size(data) == upright.shape[:2]


@pytest.mark.parametrize("value", [0, 9, 77])
def test_meaningless_orientation_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(pixels(encoded(Image.fromarray(PHOTO), "PNG", exif=exif)), PHOTO)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_image() -> None:
    data = encoded(Image.fromarray(PHOTO), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert pixels(data).shape == PHOTO.shape


@pytest.mark.parametrize("background", [255, 0, 100])
def test_alpha_is_composited(background: int) -> None:
    rgba = np.concatenate([PHOTO, RNG.integers(0, 256, (*PHOTO.shape[:2], 1), np.uint8)], axis=2)
    alpha = rgba[..., 3:] / 255
    expected = np.rint(rgba[..., :3] * alpha + background * (1 - alpha))
    for source in (encoded(Image.fromarray(rgba), "PNG"), rgba, Image.fromarray(rgba)):
        got = pixels(source, background=background)
        assert np.abs(got - expected).max() <= 1  # Pillow rounds in integers


def test_grey_with_alpha_stays_grey() -> None:
    la = RNG.integers(0, 256, (7, 5, 2), np.uint8)
    image = open_image(encoded(Image.fromarray(la, "LA"), "PNG"), background=255)
    alpha = la[..., 1] / 255
    assert image.mode == "L"
    assert np.abs(np.asarray(image) - np.rint(la[..., 0] * alpha + 255 * (1 - alpha))).max() <= 1


def test_palette_with_and_without_transparency() -> None:
    indices = RNG.integers(0, 4, (6, 8), np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    assert np.array_equal(pixels(encoded(image, "PNG")), colours[indices])
    # one transparent index, and (the form that Pillow warns about) one alpha per index
    one = colours.copy()
    one[2] = 255
    assert np.array_equal(pixels(encoded(image, "PNG", transparency=2)), one[indices])
    each = pixels(encoded(image, "PNG", transparency=bytes([255, 0, 255, 128])))
    expected = colours.astype(float)
    expected[1] = 255
    expected[3] = colours[3] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(each - np.rint(expected)[indices]).max() <= 1
    assert np.array_equal(pixels(encoded(image, "GIF", transparency=2)), one[indices])


def test_transparent_colour_of_rgb_and_grey_png() -> None:
    rgb = PHOTO.copy()
    rgb[:3, :4] = (1, 2, 3)
    expected = rgb.copy()
    expected[(rgb == (1, 2, 3)).all(axis=2)] = 255
    assert np.array_equal(pixels(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3))), expected)
    grey = PHOTO[..., 0].copy()
    grey[0] = 77
    assert np.array_equal(
        pixels(encoded(Image.fromarray(grey), "PNG", transparency=77)), np.where(grey == 77, 255, grey)
    )


def test_one_bit() -> None:
    bits = RNG.integers(0, 2, (9, 11)).astype(bool)
    image = open_image(encoded(Image.fromarray(bits), "PNG"))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257], [300, 32768, 65406, 65535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    assert list(expected[0]) == [0, 0, 1, 1]
    got = open_image(encoded(Image.fromarray(values), kind))
    assert got.mode == "L"
    assert np.array_equal(np.asarray(got), expected)


def test_sixteen_bit_transparent_value() -> None:
    values = np.array([[0, 1000], [50000, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), "PNG")
    at = data.index(b"IDAT") - 4
    data = data[:at] + png_chunk(b"tRNS", struct.pack(">H", 1000)) + data[at:]
    assert pixels(data).tolist() == [[0, 255], [195, 255]]


def test_integer_mode() -> None:
    values = np.array([[0, 40000], [257, 65535]], np.int32)
    assert pixels(Image.fromarray(values)).tolist() == [[0, 156], [1, 255]]
    with pytest.raises(ImageError, match=r"-5 .. 9 to 8 bits"):
        open_image(Image.fromarray(np.array([[-5, 9]], np.int32)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 99.6, 255.0], [0, 100, 255]), ([0.0, 2570.0, 65535.0], [0, 10, 255])],
)
def test_float_tiff_ranges(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert pixels(data)[0].tolist() == expected


@pytest.mark.parametrize("bad", [-0.5, 1e6, np.nan, np.inf])
def test_float_without_a_known_range_is_refused(bad: float) -> None:
    with pytest.raises(ImageError, match="cannot scale"):
        open_image(encoded(Image.fromarray(np.array([[0.5, bad]], np.float32)), "TIFF"))


def test_cmyk_jpeg() -> None:
    data = encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    got = pixels(data)
    assert got.shape == PHOTO.shape
    assert np.abs(got.astype(int) - PHOTO).mean() < 3  # an inverted CMYK would be off by about 100


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animated_takes_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(pixels(data), np.asarray(frames[0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_every_format_opens_from_bytes_and_path(kind: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PHOTO), kind)
    (tmp_path / "no-suffix").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(data), expected)
    assert np.array_equal(pixels(str(tmp_path / "no-suffix")), expected)
    assert np.array_equal(pixels(tmp_path / "no-suffix", formats=[kind]), expected)
