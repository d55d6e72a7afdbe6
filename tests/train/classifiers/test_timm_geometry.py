"""timm's own evaluation transform against what becomes of each of its published data configurations, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from guard.preprocess import to_input
from guard.requests import FitRequest
from train.classifiers.input import normalised
from train.classifiers.torch_models import of_module

OVERLAYS: dict[str, dict[str, Any]] = {
    "squash, all of it": {"input_size": (3, 48, 48), "crop_pct": 1.0, "crop_mode": "squash"},
    "squash, then cut": {"input_size": (3, 48, 48), "crop_pct": 0.9, "crop_mode": "squash"},
    "border": {"input_size": (3, 48, 48), "crop_pct": 1.0, "crop_mode": "border"},
    "border, then cut": {"input_size": (3, 48, 40), "crop_pct": 0.8, "crop_mode": "border", "mean": (0.1, 0.5, 0.9)},
    "border around": {"input_size": (3, 47, 48), "crop_pct": 1.2, "crop_mode": "border"},
    "centre with a border": {"input_size": (3, 48, 48), "crop_pct": 1.15},
    "oblong": {"input_size": (3, 64, 48), "crop_pct": 0.95},
    "oblong, squashed": {"input_size": (3, 48, 64), "crop_pct": 0.95, "crop_mode": "squash"},
    "oblong with a border": {"input_size": (3, 48, 49), "crop_pct": 1.3},
    "lanczos": {"input_size": (3, 48, 48), "interpolation": "lanczos"},
    "nothing said": {"input_size": (3, 48, 48), "crop_pct": None, "interpolation": "", "crop_mode": None},
}


def distinct(configs: Any) -> list[dict[str, Any]]:
    """Configurations that differ in what timm's transform reads."""
    found = {tuple(sorted((k, str(v)) for k, v in resolve_data_config(pretrained_cfg=c).items())): c for c in configs}
    return list(found.values())


def photo(size: tuple[int, int]) -> Image.Image:
    """Noise in patches of four pixels, so that a shift by one pixel shows."""
    cells = np.random.default_rng(0).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def check(config: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    model = nn.Linear(1, 2)
    model.pretrained_cfg = {**config, "architecture": None}  # type: ignore[assignment]
    given = of_module(model, FitRequest(model=model, data=None))
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)
    for size in sizes:
        image = photo(size)
        expected = theirs(image)
        pixels = to_input(image, given.preprocess)
        mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
        levels = (expected * std + mean) * 255
        assert levels.shape == (3, *pixels.shape[:2]), (config, size)
        assert np.array_equal(levels.round().byte().permute(1, 2, 0).numpy(), pixels), (config, size)
        got = normalised(torch.from_numpy(pixels[None]), given.normalisation)[0]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_every_published_configuration() -> None:
    """Wide, tall, tiny pictures, and one of the input's size."""
    configs = distinct(timm.get_pretrained_cfg(name).to_dict() for name in timm.list_pretrained())
    assert len(configs) > 150
    shapes: list[tuple[int, int]] = [(251, 173), (97, 130), (23, 17)]
    for index, config in enumerate(configs):
        height, width = config["input_size"][1:]
        check(config, [shapes[index % 3], (width, height)] if height * width < 300**2 else [shapes[index % 3]])


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_kind_of_configuration(name: str) -> None:
    base = timm.get_pretrained_cfg("resnet10t").to_dict()
    config = {**base, **OVERLAYS[name]}
    height, width = config["input_size"][1:]
    check(config, [(251, 173), (97, 130), (23, 17), (200, 13), (width, height), (256, 256)])
