"""Anything -> uint8 pixels: the one implementation that training, evaluation and serving share.

    path | bytes | PIL image | uint8 array --open_image--> PIL "L" or "RGB" --to_input--> uint8 (H, W, channels)

The order is fixed: read the header, check the limits, decode, orient (EXIF), convert to 8-bit grey or RGB, resize
(`guard.resizing`).
Interpolation differences alone can flip an out-of-distribution decision, so nothing else in the product resizes.

What becomes of the odd ones:
    EXIF orientation        applied (all eight)
    alpha, palette alpha    composited over `background`, or dropped
    16-bit grey             v -> round(v / 257), so 65535 is 255; 32-bit integers are taken as 16-bit values
                            (values that use few of these bits are named: guard/deep_images.py)
    float grey              values in 0..1 times 255; else in 0..255 as they are; else in 0..65535 / 257; else refused
    CMYK, YCbCr, HSV        converted to RGB by Pillow
    animated, multi-page    the first frame
    truncated, not an image `ImageError`, here and never later (Pillow alone would decode lazily)
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

import numpy as np
from PIL import (  # the plugins register the formats below
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from .deep_images import saw
from .errors import ConfigError, ImageError, MissingDataError
from .manifest import Preprocess
from .resizing import resized

MAX_PIXELS = 50_000_000

#: What `open_image` reads, by content and whatever the suffix says. Not all that Pillow reads: its EPS plugin runs
#: another program, and formats without a signature would claim any file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

_ORIENT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
Background = int | tuple[int, int, int] | Literal["drop"]


def open_image(
    source: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Iterable[str] | None = None,
    background: Background = 255,
) -> Image.Image:
    """Decode one image completely, oriented, as 8-bit grey or colour.

    Args:
        source: a path, encoded bytes, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        max_pixels: width x height allowed; read from the header, so a decompression bomb costs nothing.
        formats: names of `FORMATS` to accept, recognised by content; default all of them. For encoded images only.
        background: what lies behind transparent pixels, as in `Preprocess`.

    Returns:
        A PIL image of mode "L" or "RGB"; the caller's own object is never changed.

    Raises:
        ImageError: not an image, damaged, empty, too large, or an array that would have to be guessed at.
        MissingDataError: no file at that path.
    """
    with _opened(source, formats) as (image, where):
        _check_size(image, max_pixels, where)
        return _decode(image, background, where)


def to_input(
    source: Any, config: Preprocess, *, max_pixels: int = MAX_PIXELS, formats: Iterable[str] | None = None
) -> np.ndarray:
    """One image as the graph takes it: uint8 (config.height, config.width, config.channels), C-contiguous.

    The pixels are those of torchvision's, timm's or Hugging Face's transforms of the same settings (`guard.resizing`).

    Args:
        source, max_pixels, formats: as in `open_image`.
        config: the guard's `Preprocess`.

    Raises:
        ImageError, MissingDataError: as in `open_image`.
    """
    if isinstance(source, np.ndarray) and (ready := _ready(source, config)) is not None:
        return ready
    image = open_image(source, max_pixels=max_pixels, formats=formats, background=config.background)
    mode = "L" if config.channels == 1 else "RGB"
    if image.mode == "RGB" and mode == "L":
        image = image.convert("L")  # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    # grey stays grey until after the resize: a third of the work, the same pixels
    return resized(image, config)


def header_size(source: Any) -> tuple[int, int]:
    """(height, width) after orientation, from the header alone: nothing is decoded; raises as `open_image` does."""
    with _opened(source, None) as (image, _):
        width, height = image.size
        # Pillow's TIFF plugin reports (and later applies) the orientation by itself
        swap = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if swap else (height, width)


def is_deep(source: Any) -> bool:
    """Whether this is a grey image of more than 8 bits, from the header alone; raises as `open_image` does."""
    with _opened(source, None) as (image, _):
        return image.mode.startswith("I") or image.mode == "F"


@contextlib.contextmanager
def as_picture(source: Any) -> Iterator[Image.Image]:
    """The PIL image behind any source, neither decoded nor converted; raises as `open_image` does."""
    with _opened(source, None) as (image, _):
        yield image


@contextlib.contextmanager
def _opened(source: Any, formats: Iterable[str] | None) -> Iterator[tuple[Image.Image, str]]:
    """(the lazily opened image behind any source, its path for messages); closes only what was opened here."""
    if isinstance(source, np.ndarray):
        yield _from_array(source), ""
    elif isinstance(source, Image.Image):
        yield source, ""
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with io.BytesIO(source) as file:
            yield _open_lazily(file, formats, ""), ""
    elif isinstance(source, (str, os.PathLike)):
        with _open_file(os.fspath(source)) as opened:
            yield _open_lazily(opened, formats, f"{source}: "), f"{source}: "
    else:
        raise ImageError(
            f"an image must be a path, encoded bytes, a PIL image or a uint8 array, got {type(source).__name__}"
        )


def check_regular(path: str) -> None:
    """Raises: ImageError: a pipe, a socket or a device, whose opening may wait for ever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ImageError(f"{path!r} is a pipe, a socket or a device; give the path of a file")


def read_file(path: str) -> bytes:
    """The bytes of an image file as they are; raises as `open_image` does where there is no such file."""
    with _open_file(path) as file:
        return file.read()


def _open_file(path: str) -> IO[bytes]:
    try:
        check_regular(path)
        return open(path, "rb")
    except FileNotFoundError:
        raise MissingDataError(f"no such image: {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path!r} is a folder; give its files: sorted(Path({path!r}).iterdir())") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no permission, a NUL in the name
        raise ImageError(f"{path!r} cannot be read ({error})") from None


def _open_lazily(file: IO[bytes], formats: Iterable[str] | None, where: str) -> Image.Image:
    """The header only. `Image.open` is not used: its own size check warns or raises by a global limit, and it tries
    every plugin there is."""
    allowed = FORMATS if formats is None else tuple(formats)
    if unknown := [name for name in allowed if name not in FORMATS]:
        raise ConfigError(f"unknown image format {unknown[0]!r}; accepted: {', '.join(FORMATS)}")
    prefix = file.read(16)
    if not prefix:
        raise ImageError(f"{where}the image is empty (0 bytes)")
    claims = {name: claim for name in FORMATS if (claim := _claims(name, prefix))}
    if not claims:
        raise ImageError(f"{where}not an image; accepted: {', '.join(allowed)}")
    if not set(claims) & set(allowed):
        raise ImageError(f"{where}{next(iter(claims))} images are not accepted here; accepted: {', '.join(allowed)}")
    reason: object = ""
    for kind, claim in claims.items():
        if kind not in allowed:
            continue
        if isinstance(claim, str):
            raise ImageError(f"{where}this build of Pillow cannot read {kind} images ({claim})")
        try:
            file.seek(0)
            return Image.OPEN[kind][0](file, "")
        except Image.DecompressionBombError as error:  # a frame or tile larger than the image says it is
            raise ImageError(f"{where}the {kind} image is too large ({error})") from None
        except Exception as error:  # plugins raise whatever broken bytes make them raise
            reason = error
    raise ImageError(f"{where}damaged or cut short {' or '.join(claims)} image ({reason})")


def _claims(name: str, prefix: bytes) -> bool | str:
    """Whether a file that begins like this is of that format; a sentence where Pillow was built without it."""
    accept = Image.OPEN[name][1]
    return accept is not None and accept(prefix)


def _check_size(image: Image.Image, max_pixels: int, where: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{where}the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(
            f"{where}the image is too large: {width} x {height} = {width * height / 1e6:.1f} megapixels, "
            f"at most {max_pixels / 1e6:g} are accepted; scale it down first"
        )


def _decode(image: Image.Image, background: Background, where: str) -> Image.Image:
    try:
        image.load()
        turn = _ORIENT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        return _eight_bit(image, background)
    except ImageError as error:
        raise ImageError(f"{where}{error}") from None
    except Exception as error:  # see _open_lazily
        kind = f"{image.format} " if image.format else ""
        raise ImageError(f"{where}damaged or cut short {kind}image ({error})") from None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata around a sound image
        return 1
    return value if value in _ORIENT else 1


def _eight_bit(image: Image.Image, background: Background) -> Image.Image:
    """Any mode -> "L" or "RGB", without alpha."""
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _from_deep(image, background)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = mode in ("1", "L", "LA", "La")
        if mode in ("La", "RGBa"):
            image = image.convert(mode.upper())
        if background == "drop":
            return image.convert("L" if grey else "RGB")
        image = image.convert("RGBA")
        colour = background if isinstance(background, tuple) else (background,) * 3
        grey = grey and len(set(colour)) == 1
        flat = Image.new("L" if grey else "RGB", image.size, colour[0] if grey else colour)
        flat.paste(image.convert(flat.mode), mask=image.getchannel("A"))
        return flat
    if mode in ("L", "RGB"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _from_deep(image: Image.Image, background: Background) -> Image.Image:
    """16-bit, 32-bit and float grey scaled to 8 bits; Pillow's own convert("L") would clip at 255."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ImageError(f"cannot scale grey values {low:g} .. {high:g} to 8 bits; accepted: 0..1, 0..255 or 0..65535")
    if image.mode != "F" or high > 255:
        saw(high)
    if image.mode != "F":
        pixels = (values.astype(np.uint32) + 128) // 257
    elif high <= 255:
        pixels = np.rint(values * (255.0 if high <= 1 else 1.0))
    else:
        pixels = np.rint(values / 257.0)
    pixels = pixels.astype(np.uint8)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int) or background == "drop":
        return Image.fromarray(pixels)
    colour = np.array(background, np.uint8)
    if colour.ndim:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    pixels[values == transparent] = colour
    return Image.fromarray(pixels)


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8:
        raise ImageError(
            f"image arrays must be uint8 with values 0..255, got {array.dtype}; "
            "for floats in 0..1: (image * 255).round().astype('uint8')"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        fix = "; if its channels come first: image.transpose(1, 2, 0)" if first else ""
        fix = "; for grey with transparency: image[..., 0]" if array.shape[2:] == (2,) else fix
        raise ImageError(
            f"image arrays must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}{fix}"
        )
    if array.size == 0:
        raise ImageError(f"the image has no pixels (shape {array.shape})")


def _from_array(array: np.ndarray) -> Image.Image:
    _check_array(array)
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))


def _ready(array: np.ndarray, config: Preprocess) -> np.ndarray | None:
    """The array itself where it needs no conversion but repeating grey; else None."""
    _check_array(array)
    pixels = array if array.ndim == 3 else array[:, :, None]
    if not config.keeps_own_size:
        return None
    if pixels.shape[:2] != (config.height, config.width) or pixels.shape[2] not in (1, config.channels):
        return None
    if pixels.shape[2] != config.channels:
        return np.repeat(pixels, config.channels, axis=2)
    return np.ascontiguousarray(pixels)
