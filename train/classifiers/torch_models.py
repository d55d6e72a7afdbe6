"""torch classifiers: any module, and timm's, whose `pretrained_cfg` tells the input they were trained for."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from guard.data import load
from guard.errors import ModelError
from guard.manifest import Preprocess
from guard.record import parse_options
from guard.requests import FitRequest

from .base import GivenClassifier
from .fresh import CUSTOM, timm_model
from .input import check_channels, normalisation

log = logging.getLogger("ood_guard")


def of_module(model: nn.Module, request: FitRequest, *, side: int | None = None, channels: int = 3) -> GivenClassifier:
    """A torch module: normalised images (N, channels, H, W) -> logits (N, C).

    Args:
        side, channels: of its input, where neither the request nor a `pretrained_cfg` of timm's says.
    """
    given: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    expected = given.get("input_size") or (channels, side, side)
    channels = int(expected[0]) if request.in_chans is None else request.in_chans
    check_channels(channels)
    size = expected[-1] if request.image_size is None else request.image_size
    if size is None:
        source = load(request.data, channels=channels, workers=request.workers, all_classes=request.class_names is None)
        preprocess = source.preprocess
        log.info("image_size not given: %d pixels (the images' own where all are alike and small)", preprocess.height)
    else:
        source, preprocess = None, _preprocess(size, channels, given, own_size=request.image_size is None)
    normalised = normalisation(*_mean_and_std(request, given, channels), channels)
    name = _timm_name(model, channels, preprocess.height)
    return GivenClassifier(model, preprocess, normalised, name, data=source)


def _preprocess(size: int, channels: int, given: dict[str, Any], own_size: bool) -> Preprocess:
    """A square of `size` pixels, resized as the published configuration says; cropped so only at its own size."""
    values: dict[str, Any] = {"height": size, "width": size, "channels": channels}
    if given.get("crop_pct") and own_size:
        values["crop_scale"] = round(1 / given["crop_pct"], 6)
    if given.get("interpolation") in ("bilinear", "bicubic"):
        values["interpolation"] = given["interpolation"]
    return parse_options(Preprocess, values, "guard.fit: image_size as")


def _mean_and_std(request: FitRequest, given: dict[str, Any], channels: int) -> tuple[Any, Any]:
    """Those of the request, else of the published configuration; of colours, their average for grey images."""
    mean: Any = given.get("mean") if request.mean is None else request.mean
    std: Any = given.get("std") if request.std is None else request.std
    if channels == 1 and _per_colour(mean) and _per_colour(std):
        return (sum(mean) / 3,), (sum(std) / 3,)
    return mean, std


def _per_colour(numbers: Any) -> bool:
    return hasattr(numbers, "__len__") and len(numbers) == 3


def timm_by_name(name: str, request: FitRequest) -> nn.Module:
    """A timm model with its published weights."""
    import timm

    from ..backbones import create_backbone

    if not timm.is_model(name):
        create_backbone(name)  # raises with near matches, unless it is one of ours
        raise ModelError(
            f"{name!r} is a backbone without trained weights; train it: guard.train(..., backbone={name!r})"
        )
    classes = len(load(request.data, image_size=request.image_size, workers=request.workers).class_names)
    try:
        return timm_model(name, classes, request.in_chans or 3, request.image_size or 224, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"the published weights of {name!r} cannot be loaded ({error}); pass the model itself: "
            "guard.fit(my_model, data), or its file: guard fit DATA --model NAME --checkpoint weights.safetensors"
        ) from error


def _timm_name(model: nn.Module, channels: int, size: int) -> str:
    """timm's name where what timm builds under it answers alike with these weights, so that a run folder can be
    reloaded by name; a model made with other arguments (another activation, say) is `CUSTOM`."""
    given = getattr(model, "pretrained_cfg", None) or {}
    name = given.get("architecture")
    if not name:
        return CUSTOM
    classes = int(getattr(model, "num_classes", 0) or 0)
    theirs = copy.deepcopy(model).cpu().float().eval()
    example = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        same = timm_model(name, classes, channels, size).eval()
        same.load_state_dict(theirs.state_dict())
        with torch.inference_mode():
            alike = torch.equal(same(example), theirs(example))
    except Exception:  # timm cannot build it, or its weights differ in name or shape
        return CUSTOM
    return name if alike else CUSTOM
