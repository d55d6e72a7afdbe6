"""torch classifiers: any module, and timm's, whose `pretrained_cfg` tells the input they were trained for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from guard.data import load
from guard.errors import ModelError
from guard.geometry import resized_before, sides, size_of
from guard.manifest import Preprocess
from guard.record import parse_options
from guard.requests import FitRequest

from ..features.copies import own_copy
from ..pretrained import impatient
from .base import GivenClassifier
from .fresh import CUSTOM, timm_model
from .input import check_channels, first_channels, normalisation, per_channel

log = logging.getLogger("ood_guard")


def of_module(
    model: nn.Module, request: FitRequest, *, side: int | tuple[int, int] | None = None, channels: int = 3
) -> GivenClassifier:
    """A torch module: normalised images (N, channels, H, W) -> logits (N, C).

    Args:
        side, channels: of its input, where neither the request nor a `pretrained_cfg` of timm's says.
    """
    given: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    expected = given.get("input_size") or (channels, *((None, None) if side is None else sides(side)))
    own = 1 if first_channels(model) == 1 else int(expected[0])  # timm's configuration does not tell of in_chans=1
    channels = own if request.in_chans is None else request.in_chans
    check_channels(channels)
    size = tuple(expected[-2:]) if request.image_size is None else sides(request.image_size)
    own_size = size == tuple(expected[-2:])
    normalised = normalisation(*_mean_and_std(request, given, channels), channels, request.channel_order)
    source = None
    if None in size:
        source = load(
            request.data,
            channels=channels,
            geometry=request,
            workers=request.workers,
            all_classes=request.class_names is None,
        )
        preprocess = source.preprocess
        log.info("image_size not given: %d pixels (the images' own where all are alike and small)", preprocess.height)
    else:
        values = {"height": size[0], "width": size[1], "channels": channels}
        if given:
            rgb = normalised.mean[::-1] if normalised.channel_order == "bgr" else normalised.mean
            values |= timm_geometry(given, (size[0], size[1]), rgb, own_size=own_size)
        preprocess = request.applied(parse_options(Preprocess, values, "guard.fit: image_size as"))
    name = _timm_name(model, preprocess)
    return GivenClassifier(model, preprocess, normalised, name, data=source)


def timm_geometry(
    given: Mapping[str, Any], size: tuple[int, int], mean: tuple[float, ...], own_size: bool = True
) -> dict[str, Any]:
    """The fields of the `Preprocess` that is timm's ``create_transform(**resolve_data_config(pretrained_cfg=given))``.

    Args:
        size: (height, width) of the input.
        mean: of the normalisation, whose colour surrounds images in timm's crop_mode "border".
        own_size: whether it is the size of the published configuration: `crop_pct` was chosen for that, and is left out
            at another.
    """
    from timm.data.config import resolve_data_config

    config = resolve_data_config(pretrained_cfg=dict(given))
    values: dict[str, Any] = {"interpolation": config["interpolation"]}
    values["resize"] = {"squash": "squash", "border": "pad"}.get(config["crop_mode"], "crop")
    if own_size:
        values["resize_to"] = resized_before(size, config["crop_pct"])
    if values["resize"] == "pad":
        values["fill"] = tuple(round(255 * v) for v in mean)
    return values


def _mean_and_std(request: FitRequest, given: dict[str, Any], channels: int) -> tuple[Any, Any]:
    """Those of the request, else of the published configuration; of colours, their average for grey images."""
    values = []
    for name in ("mean", "std"):
        value = given.get(name) if getattr(request, name) is None else getattr(request, name)
        if channels == 1 and value is not None and np.size(np.asarray(value, dtype=object)) == 3:
            value = (sum(per_channel(name, value, 3)) / 3,)
        values.append(value)
    return values[0], values[1]


def timm_by_name(name: str, request: FitRequest) -> nn.Module:
    """A timm model with its published weights."""
    import timm

    from ..backbones import create_backbone

    if not timm.is_model(name):
        create_backbone(name)  # raises with near matches, unless it is one of ours
        raise ModelError(
            f"{name!r} is a backbone without trained weights; train it: guard.train(..., backbone={name!r})"
        )
    published = timm.get_pretrained_cfg(name)
    classes = 0 if published is None else published.num_classes
    if not classes:
        raise ModelError(
            f"timm publishes no classifier under the name {name!r}, only features; train one: "
            f"guard.train(..., backbone={name!r}, pretrained=True)"
        )
    try:
        with impatient():
            return timm_model(name, classes, request.in_chans or 3, request.image_size or 224, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"the published weights of {name!r} cannot be loaded ({error}); pass the model itself: "
            "guard.fit(my_model, data), or its file: guard fit DATA --model NAME --checkpoint weights.safetensors"
        ) from error


def _timm_name(model: nn.Module, preprocess: Preprocess) -> str:
    """timm's name where what timm builds under it answers alike with these weights, so that a run folder can be
    reloaded by name; a model made with other arguments (another activation, say) is `CUSTOM`."""
    given = getattr(model, "pretrained_cfg", None) or {}
    name = given.get("architecture")
    if not name:
        return CUSTOM
    classes = int(getattr(model, "num_classes", 0) or 0)
    theirs = own_copy(model, torch.device("cpu"))
    channels, shape = preprocess.channels, (preprocess.height, preprocess.width)
    example = torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(0))
    try:
        same = timm_model(name, classes, channels, size_of(preprocess)).eval()
        same.load_state_dict(theirs.state_dict())
        with torch.inference_mode():
            alike = torch.equal(same(example), theirs(example))
    except Exception:  # timm cannot build it, or its weights differ in name or shape
        return CUSTOM
    return name if alike else CUSTOM
