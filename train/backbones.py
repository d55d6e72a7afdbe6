"""Backbones: timm by name, and small-image nets.

wrn16_2, wrn28_10, any wrnD_W       wide residual nets (Zagoruyko & Komodakis 2016) of depth D = 6 n + 4 and width W,
                                    64 W features
resnet18_small, resnet34_small      timm's ResNets with a 3x3 stem and no max-pooling, 512 features
resnet50_small                      the same, 2048
densenet121_small                   timm's DenseNet-121 with a 3x3 stem and no max-pooling, 1024 features
any timm name                       pooled features; published weights by `train.pretrained`
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.data.pixels import SMALL_SIDE
from guard.errors import ConfigError, UnknownNameError
from guard.graph.outputs import Backbone
from guard.manifest import Normalisation

from .pretrained import WITHOUT_HUB, check_is_of, checkpoint, impatient, overlay

WIDE = ("wrn10_2", "wrn16_2", "wrn28_10", "wrn40_2")  # examples
SMALL_STEM = ("resnet18_small", "resnet34_small", "resnet50_small", "densenet121_small")
SMALL = (*WIDE, *SMALL_STEM)


def depth_and_width(name: str) -> tuple[int, int] | None:
    """(depth, width) of "wrn28_10"; None for a name of another kind or a depth that is not 6 n + 4."""
    found = re.fullmatch(r"wrn([1-9]\d{1,2})_([1-9]\d?)", name)
    return (int(found[1]), int(found[2])) if found and int(found[1]) % 6 == 4 else None


def is_ours(name: str) -> bool:
    """Whether the net is one for small images, and not timm's."""
    return name in SMALL_STEM or depth_and_width(name) is not None


def automatic_backbone(side: int) -> str:
    """What ``backbone="auto"`` stands for, by the images' longer side in pixels."""
    return "wrn16_2" if side <= SMALL_SIDE else "resnet18"


def automatic_teacher(side: int) -> str:
    """The network that teaches the automatic backbone: a larger one of its kind."""
    return "wrn40_2" if side <= SMALL_SIDE else "resnet34"


class WideBlock(nn.Module):
    """Pre-activation residual block: BN-ReLU-3x3-BN-ReLU-(dropout)-3x3, the shortcut a 1x1 where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.dropout = dropout
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x), inplace=True)
        residual = x if self.shortcut is None else self.shortcut(y)
        y = F.relu(self.norm2(self.conv1(y)), inplace=True)
        if self.dropout:
            y = F.dropout(y, self.dropout, self.training)
        merged: Tensor = self.conv2(y) + residual
        return merged


class WideResNet(Backbone):
    """WRN-depth-width without its classifier; depth = 6 n + 4, D = 64 width, total stride 4."""

    def __init__(self, depth: int, width: int, in_chans: int, dropout: float) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(in_chans, channels[0], 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        for group in range(3):
            for block in range(blocks):
                inputs = channels[group] if block == 0 else channels[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(WideBlock(inputs, channels[group + 1], stride, dropout))
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels[3])
        self.num_features = channels[3]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_body(self, x: Tensor) -> Tensor:
        body: Tensor = self.blocks(self.stem(x))
        return body

    def finish(self, body: Tensor) -> Tensor:
        return F.relu(self.norm(body), inplace=True)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.finish(self.forward_body(x))

    def pool(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean((2, 3))


class TimmBackbone(Backbone):
    """A timm model without its classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)

    def forward_map(self, x: Tensor) -> Tensor:
        feature_map: Tensor = self.model.forward_features(x)
        return feature_map

    def pool(self, feature_map: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(feature_map, pre_logits=True)
        return features


def create_backbone(
    name: str,
    *,
    in_chans: int = 3,
    image_size: int | tuple[int, int] = 32,
    pretrained: bool | str | Path = False,
    dropout: float = 0.0,
) -> Backbone:
    """A backbone by name.

    Args:
        pretrained: timm's published weights, or those that it names (`train.pretrained`).

    Raises:
        UnknownNameError: neither one of ours nor timm's (near matches shown).
        ConfigError: pretrained weights of a net that has none, or that cannot be reached.
    """
    wide = depth_and_width(name)
    if wide is not None:
        if pretrained:
            raise ConfigError(f"backbone {name!r} has no published weights; use pretrained=False or a timm backbone")
        return WideResNet(*wide, in_chans, dropout)
    import timm

    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans, "drop_rate": dropout}
    if name in SMALL_STEM:
        if pretrained not in (True, False):
            raise ConfigError(f"backbone {name!r} has a stem of its own; pretrained= needs timm's {name[:-6]!r}")
        arguments["pretrained"] = pretrained
        return TimmBackbone(_with_small_stem(timm.create_model(name.removesuffix("_small"), **arguments), in_chans))
    check_backbone(name)
    if takes_img_size(name):
        arguments["img_size"] = image_size
    found = None if isinstance(pretrained, bool) else checkpoint(pretrained)
    if found is not None:
        arguments["pretrained_cfg_overlay"] = overlay(found)
    try:
        with impatient(pretrained is True):
            model = timm.create_model(name, pretrained=bool(pretrained), **arguments)
    except Exception as error:
        raise ConfigError(
            f"backbone {name!r}: {_failed(pretrained)} for {image_size} pixels, {in_chans} channels ({error})"
            f"{f'; {WITHOUT_HUB}' if pretrained is True else ''}"
        ) from error
    if found is not None:
        check_is_of(model, found)
    return TimmBackbone(model)


def _failed(pretrained: bool | str | Path) -> str:
    if pretrained is False:
        return "timm could not build it"
    return f"{'its published weights' if pretrained is True else f'pretrained={str(pretrained)!r}'} could not be loaded"


def _with_small_stem(model: Any, in_chans: int) -> Any:
    """A timm ResNet or DenseNet whose 7x7 convolution of stride 2 is a 3x3 one of stride 1, without the max-pooling."""
    stem = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    if hasattr(model, "conv1"):
        model.conv1, model.maxpool = stem, nn.Identity()
    else:
        model.features.conv0, model.features.pool0 = stem, nn.Identity()
    return model


def check_backbone(name: str) -> None:
    """Raises UnknownNameError (near matches shown) for a name that is neither ours nor timm's."""
    import timm

    if not is_ours(name) and not timm.is_model(name):
        hint = "Any timm model name works, and wrnD_W of a depth D = 6 n + 4 (10, 16, 22, 28 ...)."
        raise UnknownNameError("backbone", name, [*SMALL, *_near_timm(name)], hint)


def pretrained_normalisation(backbone: Backbone, in_chans: int) -> Normalisation | None:
    """The mean and std a timm model's published weights expect, or None."""
    config = getattr(getattr(backbone, "model", None), "pretrained_cfg", None) or {}
    mean, std = config.get("mean"), config.get("std")
    if not mean or not std:
        return None
    if in_chans == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return Normalisation(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _near_timm(name: str) -> list[str]:
    import difflib

    import timm

    return difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)


def takes_img_size(name: str) -> bool:
    """Whether timm's constructor wants the image size: vision transformers do, not all that cut images into patches."""
    import timm

    with torch.device("meta"):
        try:
            model: Any = timm.create_model(name, num_classes=0)
            if not hasattr(model, "patch_embed"):
                return False
            timm.create_model(name, num_classes=0, img_size=model.pretrained_cfg.get("input_size", (3, 224, 224))[-1])
        except Exception:  # whatever is wrong with the name shows when it is built for real
            return False
    return True


def published_side(name: str) -> int | None:
    """The side in pixels of the images that a timm model was published for, where it takes no others (vision
    transformers); None for all others, and for ours."""
    if is_ours(name):
        return None
    import timm

    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None and config.fixed_input_size else None
