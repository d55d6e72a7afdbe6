"""The image input of an ONNX classifier: which dimension is which, how large, and what the pixels become before it."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto

from guard.data import ImageData, load
from guard.errors import ConfigError, ModelError
from guard.geometry import sides
from guard.graph.onnx_classifier import is_channels_last
from guard.manifest import Normalisation, Preprocess
from guard.record import parse_options
from guard.requests import FitRequest

from ..input import checked_normalisation, normalisation

log = logging.getLogger("ood_guard")

_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


class Images(NamedTuple):
    """The image input as the file has it; None for a size that is left open."""

    name: str
    dtype: np.dtype[Any]
    channels_last: bool
    batch: int | None
    channels: int
    height: int | None
    width: int | None

    def dims(self, n: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of n images."""
        return (n, height, width, self.channels) if self.channels_last else (n, self.channels, height, width)

    def noise(self, n: int, preprocess: Preprocess) -> np.ndarray:
        """n images of normal noise, or of uniform pixels where the graph takes pixels."""
        shape = self.dims(n, preprocess.height, preprocess.width)
        random = np.random.default_rng(0)
        if self.dtype == np.uint8:
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.standard_normal(shape).astype(self.dtype)


def image_input(model: ModelProto, in_chans: int | None = None) -> Images:
    """The only input of `model`, if it is one of images; where its channels are left open, those of its first
    convolution, else `in_chans`, else 3."""
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input) or "none"
        raise ModelError(f"it must have one input, the images; it has {names}")
    (value,) = model.graph.input
    tensor = value.type.tensor_type
    shape = [d.dim_value or None for d in tensor.shape.dim]
    if len(shape) != 4 or tensor.elem_type not in _TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ModelError(
            f"it takes {kind} {tuple(d.dim_value or d.dim_param for d in tensor.shape.dim)} as {value.name!r}; "
            "images are float or uint8 (N, channels, H, W) or (N, H, W, channels)"
        )
    last = is_channels_last(shape)
    batch, *rest = shape
    channels, height, width = (rest[2], rest[0], rest[1]) if last else rest
    channels = channels or _of_convolution(model) or in_chans or 3
    return Images(value.name, np.dtype(_TYPES[tensor.elem_type]), last, batch, channels, height, width)


def _of_convolution(model: ModelProto) -> int | None:
    """What the first convolution with constant weights takes."""
    kernels = {kernel.name: kernel.dims for kernel in model.graph.initializer}
    for conv in (node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in kernels):
        groups = next((a.i for a in conv.attribute if a.name == "group"), 1)
        return int(kernels[conv.input[1]][1]) * groups
    return None


def preprocess_for(images: Images, request: FitRequest) -> tuple[Preprocess, ImageData | None]:
    """The size the graph fixes; else the one asked for; else that of the data, which is then loaded."""
    if images.channels not in (1, 3):
        raise ModelError(f"its images have {images.channels} channels; a guard takes 3 (colour) or 1 (grey)")
    if request.in_chans not in (None, images.channels):
        raise ConfigError(f"in_chans={request.in_chans}, but the ONNX graph takes {images.channels} channels")
    asked = (None, None) if request.image_size is None else sides(request.image_size)
    height, width = images.height or asked[0], images.width or asked[1]
    if request.image_size is not None and (height, width) != asked:
        raise ConfigError(
            f"image_size={request.image_size}, but the ONNX graph takes {height} x {width} pixels; omit it"
        )
    if height is None or width is None:
        named = request.class_names is not None  # some of which may have no images
        source = load(
            request.data, channels=images.channels, geometry=request, workers=request.workers, all_classes=not named
        )
        size = source.preprocess
        log.info("image_size not given: %d pixels (the images' own where all are alike and small)", size.height)
        return size, source
    values = {"height": height, "width": width, "channels": images.channels}
    return request.applied(parse_options(Preprocess, values, "guard.fit: image_size as")), None


def normalisation_for(images: Images, request: FitRequest) -> Normalisation:
    """mean= and std=, else ImageNet's; for a graph that takes pixels, the one that leaves them as they are."""
    if images.dtype != np.uint8:
        return normalisation(request.mean, request.std, images.channels, request.channel_order)
    if request.mean is not None or request.std is not None:
        raise ConfigError("the ONNX graph takes uint8 pixels and normalises them itself; omit mean= and std=")
    return checked_normalisation(0, 1 / 255, images.channels, request.channel_order)  # x is the pixel
