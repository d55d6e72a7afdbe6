"""The input of a classifier: channels, normalisation, and noise of its shape."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData
from guard.errors import ConfigError
from guard.manifest import Normalisation, Preprocess
from guard.requests import FitRequest

log = logging.getLogger("ood_guard")

IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}  # mean, std by channels


def check_channels(in_chans: int) -> None:
    """Refuse anything but grey or colour."""
    if in_chans not in IMAGENET:
        raise ConfigError(f"in_chans must be 3 (grey images are repeated) or 1 (colour becomes grey), got {in_chans!r}")


def given_input(request: FitRequest) -> tuple[str, ...]:
    """Which arguments of `guard.fit` about the model's input were given."""
    values = {
        "image_size": request.image_size,
        "in_chans": request.in_chans,
        "mean": request.mean,
        "std": request.std,
    }
    return tuple(name for name, value in values.items() if value is not None)


def example_batch(preprocess: Preprocess, device: torch.device | str = "cpu", n: int = 2) -> Tensor:
    """uint8 noise (n, height, width, channels), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, preprocess.height, preprocess.width, preprocess.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 (n, height, width, channels) -> float (n, channels, height, width), as a `GuardModule` does it."""
    mean, std = (torch.tensor(v, device=images.device) for v in (normalisation.mean, normalisation.std))
    scale, shift = (v.view(1, -1, 1, 1) for v in (1 / (255 * std), -mean / std))
    return images.to(torch.float32).permute(0, 3, 1, 2) * scale + shift


def data_normalisation(data: ImageData, images: int = 5000) -> Normalisation:
    """Per-channel mean and std of `images` evenly spaced training images, in units of [0, 1]; std at least 1/255.

    Evenly spaced, because a folder's images are sorted by class and the first ones are of few classes.
    """
    picked = np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(np.int64)
    rows = data.take(picked).astype(np.float64) / 255
    mean, std = rows.mean((0, 1, 2)), rows.std((0, 1, 2)).clip(1 / 255)
    return Normalisation(mean=tuple(map(float, mean.round(6))), std=tuple(map(float, std.round(6))))


def normalisation(mean: Any, std: Any, channels: int) -> Normalisation:
    """(pixel / 255 - mean) / std as given; where either is None, ImageNet's, which is logged."""
    if mean is None or std is None:
        mean, std = IMAGENET[channels]
        log.warning("mean= and std= not given: ImageNet's %s, %s; give those the model was trained with", mean, std)
    return checked_normalisation(mean, std, channels)


def checked_normalisation(mean: Any, std: Any, channels: int) -> Normalisation:
    """What a user gave as mean and std: `channels` numbers each, or one for all; std > 0, in units of [0, 1] pixels.

    Raises:
        ConfigError: it is something else.
    """
    values = []
    for name, given in (("mean", mean), ("std", std)):
        numbers = tuple(float(v) for v in (given if hasattr(given, "__len__") else [given] * channels))
        if len(numbers) != channels:
            raise ConfigError(f"{name} needs {channels} numbers (one per channel), got {given!r}")
        values.append(numbers)
    if any(v <= 0 for v in values[1]):
        raise ConfigError(f"std must be above 0, got {std!r}")
    if any(v > 1.5 for v in values[0]):
        raise ConfigError(f"mean is in units of [0, 1] pixels, got {mean!r}; divide by 255")
    return Normalisation(mean=values[0], std=values[1])
