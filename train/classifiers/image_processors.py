"""A Hugging Face image processor as our `Preprocess` and `Normalisation`, or a refusal that names the difference.

    do_resize, size, resample       size {height, width}: "squash"; {shortest_edge}: "crop", which needs a centre crop
    do_center_crop, crop_size       resize_to = size, crop_like "hugging_face"
    do_flip_channel_order           channel_order "bgr"
    do_rescale, rescale_factor      any factor, folded into mean and std
    do_normalize, image_mean, _std  (pixel * factor - mean) / std = (pixel / 255 - mean') / std'
    do_convert_rgb                  what we do always, transparent pixels over white as they do

Fields are not all: some processors compute with their own (a crop_pct that counts below 384 pixels, an offset). So the
translation is tried on the processor itself: three images through theirs and ours must give the same pixels. Those of
a processor that resizes with Pillow (the "slow" ones, ``backend="pil"``) are ours to the last bit; the "fast" ones
resize with torchvision, which on noise differs from Pillow by up to 0.25 of 255 grey levels on average and a few at
most, less than `MEAN_LEVELS` and `MAX_LEVELS` allow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
from PIL import Image

from guard.errors import ConfigError, ModelError
from guard.geometry import sides
from guard.manifest import Normalisation, Preprocess
from guard.preprocess import to_input
from guard.record import parse_options

log = logging.getLogger("ood_guard")

MEAN_LEVELS, MAX_LEVELS = 0.5, 8.0  # of 255; another filter is off by several on average, a shift by tens

_UNDERSTOOD = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order"}
_AFFINE = {"rescale_offset", "include_top"}  # EfficientNet's
_HARMLESS = {"default_to_square", "disable_grouping", "return_tensors"}
_OTHER_SIZES = ((1.9, 1.43), (1.17, 1.58), (0.91, 0.66))  # wide, tall, smaller than the input
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def input_of(
    processor: Any, channels: int, side: int | tuple[int, int] | None = None
) -> tuple[Preprocess, Normalisation]:
    """How images become the model's input.

    Args:
        processor: a transformers image processor, or a processor that has one.
        channels: of the model's input, 1 or 3.
        side: of the model's input in pixels, for a processor that leaves images as large as they are.

    Raises:
        ModelError: it does something that a guard's preprocessing cannot; the message names the field and its value.
        ConfigError: it is not an image processor.
    """
    processor = getattr(processor, "image_processor", processor)
    if not callable(processor) or not hasattr(processor, "to_dict"):
        raise ConfigError(
            f"processor must be a Hugging Face image processor or the folder of one, got {type(processor).__name__}"
        )
    fields, name = dict(processor.to_dict()), type(processor).__name__
    for field, value in fields.items():
        if value is True and field not in _UNDERSTOOD | _AFFINE | _HARMLESS:
            _refuse(name, field, value, "which has no counterpart here")
    values = {
        "channels": channels,
        "interpolation": _interpolation(fields, name),
        "crop_like": "hugging_face",
        **_geometry(fields, name, side),
    }
    preprocess = parse_options(Preprocess, values, f"the image processor {name} as")
    normalisation = _normalisation(fields, name, channels)
    sizes = _OTHER_SIZES if fields.get("do_resize") else ((1.0, 1.0),)
    _try_out(processor, name, preprocess, normalisation, sizes)
    return preprocess, normalisation


def _geometry(fields: dict[str, Any], name: str, side: int | tuple[int, int] | None) -> dict[str, Any]:
    """height, width, resize and resize_to."""
    crop = _sides(fields, "crop_size", name) if fields.get("do_center_crop") else None
    if not fields.get("do_resize"):
        if crop is not None or side is None:
            _refuse(name, "do_resize", False, "so the model's input is as large as each image")
        return dict(zip(("height", "width"), sides(side), strict=True))
    size = _sides(fields, "size", name)
    if set(size) == {"height", "width"}:
        if crop is None:
            return {**size, "resize": "squash"}
        return {**crop, "resize": "squash", "resize_to": _resized_to(size, crop, name)}
    if set(size) != {"shortest_edge"}:
        _refuse(name, "size", size, "accepted are {height, width} and {shortest_edge}")
    short = scaled = size["shortest_edge"]
    if fields.get("crop_pct"):  # ConvNeXt, ResNet, PoolFormer: resize to more, then crop
        if name.startswith("ConvNext"):
            if short >= 384:
                return {"height": short, "width": short, "resize": "squash"}
            crop = crop or {"height": short, "width": short}
        scaled = int(short / fields["crop_pct"])
    elif name.startswith("Levit"):
        scaled = int(256 / 224 * short)
    if crop is None:
        _refuse(name, "do_center_crop", False, f"with size={size} gives every image another shape")
    return {**crop, "resize": "crop", "resize_to": _resized_to({"height": scaled, "width": scaled}, crop, name)}


def _sides(fields: dict[str, Any], field: str, name: str) -> dict[str, int]:
    """A size as {name: pixels}, without what is not set."""
    value = fields.get(field)
    if isinstance(value, int):
        value = {"height": value, "width": value}
    try:
        return {key: int(pixels) for key, pixels in dict(value).items() if pixels is not None}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        _refuse(name, field, value, "accepted are {height, width} and {shortest_edge}")


def _resized_to(size: dict[str, int], crop: dict[str, int], name: str) -> tuple[int, int]:
    if size["height"] < crop["height"] or size["width"] < crop["width"]:
        _refuse(name, "crop_size", crop, f"is larger than the resized image ({size}): it pads with black")
    return size["height"], size["width"]


def _interpolation(fields: dict[str, Any], name: str) -> str:
    value = fields.get("resample", 2)
    given = _FILTERS.get(int(value)) if isinstance(value, int) else str(getattr(value, "value", value))
    if given not in ("nearest", "bilinear", "bicubic", "lanczos"):
        _refuse(name, "resample", given or value, "accepted are nearest, bilinear, bicubic and lanczos")
    return given


def _normalisation(fields: dict[str, Any], name: str, channels: int) -> Normalisation:
    """mean' and std' of units of [0, 1]: all steps are slope * pixel + shift, per channel."""
    slope, shift = np.ones(channels), np.zeros(channels)
    if fields.get("do_rescale"):
        slope, shift = slope * fields["rescale_factor"], shift - float(bool(fields.get("rescale_offset")))
    if fields.get("do_normalize"):
        mean, std = (_per_channel(fields, field, name, channels) for field in ("image_mean", "image_std"))
        slope, shift = slope / std, (shift - mean) / std
    if fields.get("include_top"):
        std = _per_channel(fields, "image_std", name, channels)
        slope, shift = slope / std, shift / std
    mean, std = (-shift / (255 * slope)).round(12) + 0.0, (1 / (255 * slope)).round(12)
    order: Literal["rgb", "bgr"] = "bgr" if fields.get("do_flip_channel_order") else "rgb"
    if order == "bgr" and channels == 1:
        _refuse(name, "do_flip_channel_order", True, "and the model's input has one channel")
    return Normalisation(mean=tuple(map(float, mean)), std=tuple(map(float, std)), channel_order=order)


def _per_channel(fields: dict[str, Any], field: str, name: str, channels: int) -> np.ndarray:
    value = fields.get(field)
    numbers = np.asarray([value] * channels if isinstance(value, (int, float)) else value, dtype=float)
    if numbers.shape != (channels,):
        _refuse(name, field, value, f"the model's input has {channels} channels")
    return numbers


def _try_out(
    processor: Any,
    name: str,
    preprocess: Preprocess,
    normalisation: Normalisation,
    sizes: Sequence[tuple[float, float]],
) -> None:
    """Their pixels against ours on images of these sizes, in units of the input's."""
    std = np.array(normalisation.std).reshape(-1, 1, 1)
    mean = np.array(normalisation.mean).reshape(-1, 1, 1)
    worst = 0.0
    for image in _examples(preprocess, sizes):
        try:
            theirs = processor(image, return_tensors="pt")["pixel_values"][0].numpy()  # before 5.0 some give no other
        except Exception as error:
            raise ModelError(f"the image processor {name} cannot take a {image.mode} image: {error}") from error
        ours = to_input(image, preprocess).transpose(2, 0, 1)
        if normalisation.channel_order == "bgr":
            ours = ours[::-1]
        if theirs.shape != ours.shape:
            raise ModelError(
                f"the image processor {name} makes inputs of shape {theirs.shape} from an image of {image.size}, "
                f"where its fields say {ours.shape}; {_ADVICE}"
            )
        levels = np.abs(ours / 255.0 - (theirs * std + mean)) * 255
        if levels.mean() > MEAN_LEVELS or levels.max() > MAX_LEVELS:
            raise ModelError(
                f"the image processor {name} does more than its fields say: its pixels differ by {levels.mean():.2f} "
                f"grey levels on average (at most {levels.max():.0f}) from {preprocess!r}; {_ADVICE}"
            )
        worst = max(worst, levels.mean())
    if worst > 0.001:
        log.info(
            "the guard resizes with Pillow, %s otherwise: %.2f of 255 grey levels apart on average, on noise",
            name,
            worst,
        )


def _examples(preprocess: Preprocess, sizes: Sequence[tuple[float, float]]) -> Iterator[Image.Image]:
    """Noise in patches of four pixels, so that a shift by one pixel shows everywhere."""
    rng = np.random.default_rng(0)
    for wide, tall in sizes:
        size = max(4, round(preprocess.width * wide)), max(4, round(preprocess.height * tall))
        cells = rng.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
        yield image.convert("L") if preprocess.channels == 1 else image


_ADVICE = "give the model without a processor and the input it needs: guard.fit(model, data, image_size=, mean=, std=)"


def _refuse(name: str, field: str, value: Any, why: str) -> NoReturn:
    raise ModelError(f"the image processor {name} has {field}={value!r}, {why}; {_ADVICE}")
