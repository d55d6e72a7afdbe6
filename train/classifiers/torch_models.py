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

from .base import GivenClassifier
from .fresh import CUSTOM, timm_model
from .input import check_channels, normalisation

log = logging.getLogger("ood_guard")


def of_module(model: nn.Module, a: dict[str, Any], data: Any) -> GivenClassifier:
    """A torch module: normalised images (N, channels, H, W) -> logits (N, C)."""
    given = getattr(model, "pretrained_cfg", None) or {}
    channels: Any = int((given.get("input_size") or (3,))[0]) if a["in_chans"] is None else a["in_chans"]
    check_channels(channels)
    size, source = a["image_size"], None
    if size is None and given.get("input_size"):
        size = given["input_size"][-1]
    if size is None:
        source = load(data, channels=channels, workers=a["workers"])
        preprocess = source.preprocess
        log.info("image_size not given: %d pixels (the images' own where all are alike and small)", preprocess.height)
    else:
        options: dict[str, Any] = {}
        if given.get("crop_pct") and not a["image_size"]:
            options["crop_scale"] = round(1 / given["crop_pct"], 6)
        if given.get("interpolation") in ("bilinear", "bicubic"):
            options["interpolation"] = given["interpolation"]
        values = {"height": size, "width": size, "channels": channels, **options}
        preprocess = parse_options(Preprocess, values, "guard.fit: image_size as")
    mean, std = a["mean"] or given.get("mean"), a["std"] or given.get("std")
    if mean is not None and std is not None and channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    name = _timm_name(model, channels, preprocess.height)
    return GivenClassifier(model, preprocess, normalisation(mean, std, channels), name, data=source)


def timm_by_name(name: str, a: dict[str, Any], data: Any) -> nn.Module:
    """A timm model with its published weights."""
    import timm

    from ..backbones import create_backbone

    if not timm.is_model(name):
        create_backbone(name)  # raises with near matches, unless it is one of ours
        raise ModelError(
            f"{name!r} is a backbone without trained weights; train it: guard.train(..., backbone={name!r})"
        )
    classes = len(load(data, image_size=a["image_size"], workers=a["workers"]).class_names)
    try:
        return timm_model(name, classes, a["in_chans"] or 3, a["image_size"] or 224, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"the published weights of {name!r} cannot be loaded ({error}); pass the model itself: "
            "guard.fit(my_model, data), or its file: guard fit DATA --model NAME --checkpoint weights.safetensors"
        ) from error


def _timm_name(model: nn.Module, channels: int, size: int) -> str:
    """timm's name where what timm builds under it answers alike with these weights, so that a run folder can be
    reloaded by name; a model made with arguments of its own (another activation, say) is `CUSTOM`."""
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
