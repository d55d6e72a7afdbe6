"""What is sent decodes to the pixels that `Guard.predict` would have seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.client.encoding import encoded
from guard.errors import ImageError, MissingDataError
from guard.manifest import Preprocess
from guard.preprocess import to_input

INPUT = Preprocess(height=9, width=7, background=40)


def picture(mode: str) -> Image.Image:
    """Drawn in that mode; transparency and grey depth where the mode has them."""
    rng = np.random.default_rng(3)
    colour = Image.fromarray(rng.integers(0, 256, (12, 10, 4), np.uint8))
    if mode in ("I;16", "I"):
        return Image.fromarray(rng.integers(0, 65536, (12, 10)).astype(np.uint16 if mode == "I;16" else np.int32))
    if mode == "F":
        return Image.fromarray(rng.random((12, 10), np.float32) * 255)
    if mode in ("RGBa", "La", "PA"):
        return {"RGBa": colour, "La": colour.convert("LA"), "PA": colour.convert("LA").convert("PA")}[mode].convert(
            mode
        )
    return colour.convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
)
def test_a_pil_image_of_any_mode(mode: str) -> None:
    image = picture(mode)
    assert image.mode == mode
    assert np.array_equal(to_input(encoded(image), INPUT), to_input(image, INPUT))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_that_is_still_to_be_applied(orientation: int) -> None:
    image = picture("RGB")
    image.getexif()[0x0112] = orientation
    own = to_input(image, INPUT)
    assert np.array_equal(to_input(encoded(image), INPUT), own)
    assert (orientation == 1) == np.array_equal(own, to_input(picture("RGB"), INPUT))


def test_a_colour_that_means_transparent() -> None:
    image = picture("P")
    image.info["transparency"] = int(np.asarray(image)[3, 3])
    own = to_input(image, INPUT)
    assert not np.array_equal(own, to_input(picture("P"), INPUT))
    assert np.array_equal(to_input(encoded(image), INPUT), own)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3), (12, 10, 4)])
def test_an_array(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(to_input(encoded(array), INPUT), to_input(array, INPUT))


def test_files_and_bytes_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture("RGB").save(path)
    data = path.read_bytes()
    assert encoded(path) == encoded(str(path)) == encoded(data) == encoded(memoryview(data)) == data
    assert encoded(b"not an image") == b"not an image"  # the service says so, as for any other


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        (np.zeros((4, 4), np.float32), ImageError, "must be uint8"),
        (np.zeros((3, 4, 4, 4), np.uint8), ImageError, "must have shape"),
        (7, ImageError, "got int"),
        (Path("nowhere.png"), MissingDataError, "no such image: nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused_before_anything_is_sent(bad: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        encoded(bad)
