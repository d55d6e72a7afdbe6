"""A zoo of odd image files, each made here with Pillow, against what its pixels must become."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from guard.errors import ConfigError, ImageError, MissingDataError
from guard.manifest import Preprocess
from guard.preprocess import crop_box, header_size, open_image, to_input

RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3), np.uint8)).resize((52, 36), Image.Resampling.BICUBIC)
)  # smooth enough for JPEG, no symmetry


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: Any, **options: Any) -> np.ndarray:
    return np.asarray(open_image(source, **options))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------ orientation


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


# ------------------------------------------------------------------------------------------------------------ modes


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


# ---------------------------------------------------------------------------------------------------- what is refused


def test_empty_text_and_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty"):
        open_image(b"")
    (tmp_path / "note.jpg").write_text("this is not an image")
    with pytest.raises(ImageError, match=r"note\.jpg: not an image; accepted: JPEG, PNG"):
        open_image(tmp_path / "note.jpg")
    with pytest.raises(MissingDataError, match=r"no such image: .*nothing\.png"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(FileNotFoundError):
        open_image(str(tmp_path / "nothing.png"))
    with pytest.raises(ImageError, match="is a folder; give its files"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        open_image("a\0b.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("keep", [0.5, 0.1])
def test_truncated_files_fail_here(kind: str, keep: float) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"damaged or cut short|not an image"):
        open_image(data[: int(len(data) * keep)])


def test_flipped_bytes_never_raise_anything_else() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encoded(Image.fromarray(PHOTO), kind)
        for seed in range(40):
            generator = np.random.default_rng(seed)
            broken = bytearray(data)
            for at in generator.integers(0, len(data), 5):
                broken[at] = generator.integers(0, 256)
            try:
                to_input(bytes(broken), Preprocess(height=8, width=8))
            except ImageError:
                pass
            except UserWarning:  # warnings are errors here; for users they are warnings
                pass


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000), (2_000_000_000, 1)])
def test_decompression_bomb_is_refused_from_the_header(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=rf"too large: {size[0]} x {size[1]} = .* at most 50 are"):
            open_image(png_header(*size))


def test_gif_frame_beyond_its_screen_is_refused() -> None:
    data = bytearray(encoded(Image.new("P", (14_000, 14_000)), "GIF"))
    data[6:10] = struct.pack("<HH", 1, 1)  # the header says 1 x 1
    with pytest.raises(ImageError, match="too large"):
        open_image(bytes(data))


def test_pixel_limit_can_be_changed_and_holds_for_all_sources() -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.fromarray(PHOTO), "PNG")
    for source in (data, PHOTO, Image.fromarray(PHOTO)):
        with pytest.raises(ImageError, match="too large: 52 x 36"):
            open_image(source, max_pixels=52 * 36 - 1)
        assert open_image(source, max_pixels=52 * 36).size == (52, 36)
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(encoded(Image.fromarray(PHOTO), "PNG")).shape == PHOTO.shape


def test_formats_are_judged_by_content(tmp_path: Path) -> None:
    gif = encoded(Image.fromarray(PHOTO), "GIF")
    (tmp_path / "really-a-gif.png").write_bytes(gif)
    with pytest.raises(ImageError, match="GIF images are not accepted here; accepted: JPEG, PNG"):
        open_image(tmp_path / "really-a-gif.png", formats=("JPEG", "PNG"))
    with pytest.raises(ConfigError, match="unknown image format 'JPG'"):
        open_image(gif, formats=("JPG",))


def test_postscript_is_never_run() -> None:
    with pytest.raises(ImageError, match="not an image"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "must be uint8 with values 0..255, got float32"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((3, 4, 5), np.uint8), r"must have shape .* got \(3, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "must have shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_would_have_to_be_guessed_at(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)
    with pytest.raises(ImageError, match=message):
        to_input(array, Preprocess(height=4, width=4))


def test_other_objects_and_empty_images() -> None:
    with pytest.raises(ImageError, match="got int"):
        open_image(3)
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


def test_the_callers_image_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.fromarray(PHOTO), "PNG", exif=exif)))
    assert open_image(image).size == (36, 52)
    assert image.size == (52, 36)
    assert image.getexif()[0x0112] == 6


# --------------------------------------------------------------------------------------------------------- to_input


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
