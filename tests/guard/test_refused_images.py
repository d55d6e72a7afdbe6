"""What is not an image, or not one that can be read as it was meant, is refused in one sentence."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guard.errors import ConfigError, ImageError, MissingDataError
from guard.manifest import Preprocess
from guard.preprocess import open_image, to_input
from tests.guard.image_files import PHOTO, RNG, encoded, pixels, png_header


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


def test_formats_are_recognised_by_content(tmp_path: Path) -> None:
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
