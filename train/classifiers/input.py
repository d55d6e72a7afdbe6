"""The input of a classifier: channels, normalisation, and noise of its shape."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guard.data import ImageData
from guard.errors import ConfigError
from guard.geometry import OPTIONS
from guard.graph.module import planes
from guard.manifest import Normalisation, Preprocess
from guard.requests import FitRequest

log = logging.getLogger("ood_guard")

IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}  # mean, std by channels


def check_channels(in_chans: int) -> None:
    """Refuse anything but grey or colour."""
    if in_chans not in IMAGENET:
        raise ConfigError(f"in_chans must be 3 (grey images are repeated) or 1 (colour becomes grey), got {in_chans!r}")


def first_channels(model: Any) -> int | None:
    """What the first convolution of a module, or of several, takes; None, which becomes 3, where there is none."""
    parts = model if isinstance(model, (tuple, list)) else (model,)
    modules = (m for part in parts if isinstance(part, nn.Module) for m in part.modules())
    return next((m.in_channels for m in modules if isinstance(m, nn.Conv2d)), None)


def given_input(request: FitRequest) -> tuple[str, ...]:
    """Which arguments of `guard.fit` about the model's input were given."""
    names = ("image_size", *OPTIONS, "in_chans", "mean", "std", "channel_order")
    return tuple(name for name in names if getattr(request, name) is not None)


def example_batch(preprocess: Preprocess, device: torch.device | str = "cpu", n: int = 2) -> Tensor:
    """uint8 noise (n, height, width, channels), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, preprocess.height, preprocess.width, preprocess.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 (n, height, width, channels) -> float (n, channels, height, width), as a `GuardModule` does it."""
    mean, std = (torch.tensor(v, device=images.device) for v in (normalisation.mean, normalisation.std))
    scale, shift = (v.view(1, -1, 1, 1) for v in (1 / (255 * std), -mean / std))
    return planes(images, normalisation) * scale + shift


def data_normalisation(data: ImageData, images: int = 5000) -> Normalisation:
    """Per-channel mean and std of `images` evenly spaced training images, in units of [0, 1]; std at least 1/255.

    Evenly spaced, because a folder's images are sorted by class and the first ones are of few classes.
    """
    picked = np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(np.int64)
    rows = data.take(picked).astype(np.float64) / 255
    mean, std = rows.mean((0, 1, 2)), rows.std((0, 1, 2)).clip(1 / 255)
    return Normalisation(mean=tuple(map(float, mean.round(6))), std=tuple(map(float, std.round(6))))


def normalisation(mean: Any, std: Any, channels: int, channel_order: str | None = None) -> Normalisation:
    """(pixel / 255 - mean) / std as given; where neither is, ImageNet's, which is logged.

    Raises:
        ConfigError: one of them alone, or what `checked_normalisation` refuses.
    """
    if (mean is None) != (std is None):
        missing = "mean" if mean is None else "std"
        raise ConfigError(f"mean= and std= go together: give {missing}= too (mean=0, std=1 takes pixels in 0..1)")
    if mean is None:
        mean, std = IMAGENET[channels]
        if channel_order == "bgr":
            mean, std = mean[::-1], std[::-1]
        log.warning("mean= and std= not given: ImageNet's %s, %s; give those the model was trained with", mean, std)
    return checked_normalisation(mean, std, channels, channel_order)


def checked_normalisation(mean: Any, std: Any, channels: int, channel_order: str | None = None) -> Normalisation:
    """What a user gave as mean and std: one number for all channels or one for each, as numbers, arrays or text.

    They are in units of [0, 1] pixels, as torchvision's and timm's; a mean above 1.5 or a std above 10 can only be of
    0..255 pixels, as Caffe's and OpenMMLab's, and then both are.

    Raises:
        ConfigError: something else, another number of channels, a std that is not above 0, or "bgr" of one channel.
    """
    if channel_order == "bgr" and channels == 1:
        raise ConfigError("channel_order='bgr' is for three channels, and the model takes one; omit it")
    means, stds = (per_channel(name, given, channels) for name, given in (("mean", mean), ("std", std)))
    if min(stds) <= 0:
        raise ConfigError(f"std must be above 0, got {std!r}")
    if max(means) > 255 or min(means) < -255:
        raise ConfigError(f"mean must be in units of 0..1 or 0..255 pixels, got {mean!r}")
    if max(means) > 1.5 or max(stds) > 10:
        log.info("mean= and std= are taken in units of 0..255 pixels: %s, %s", means, stds)
        means, stds = tuple(v / 255 for v in means), tuple(v / 255 for v in stds)
    return Normalisation(mean=means, std=stds, channel_order="bgr" if channel_order == "bgr" else "rgb")


def per_channel(name: str, given: Any, channels: int) -> tuple[float, ...]:
    """`channels` finite numbers of one, or of so many: a list, a text "0.5,0.5,0.5", a numpy or torch array.

    Raises:
        ConfigError: anything else.
    """
    wanted = f"{name} must be one number or {channels}" + (", one per channel" if channels > 1 else "")
    if hasattr(given, "detach"):
        given = given.detach().cpu().double().numpy()
    try:
        parts = given.strip("()[] ").replace(",", " ").split() if isinstance(given, str) else given
        if any(isinstance(part, (bool, np.bool_)) for part in np.ravel(np.asarray(parts, dtype=object))):
            raise TypeError
        array = np.asarray(parts, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{wanted}, got {given!r}") from None
    numbers = [float(v) for v in array.ravel()]
    if len(numbers) not in (1, channels) or max(array.shape, default=1) != len(numbers):
        raise ConfigError(f"{wanted}, got {given!r}")
    if not np.isfinite(numbers).all():
        raise ConfigError(f"{name} must be finite, got {given!r}")
    return tuple(numbers * channels if len(numbers) == 1 else numbers)
