"""Multiply-adds of networks, counted on shapes alone: no weights, no computation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from guard.graph.outputs import Classifier

from ..backbones import automatic_teacher, create_backbone, published_side
from ..classifiers.fresh import build_classifier
from ..teacher import TeacherOptions

META = torch.device("meta")


@dataclass(frozen=True)
class NetworkCost:
    """Attributes:
    forward: multiply-adds of one image's forward pass.
    parameters: how many numbers it learns or keeps.
    features: D. map_shape: of the last feature map, None where there is none.
    """

    forward: float
    parameters: int
    features: int
    map_shape: tuple[int, ...] | None


def numbers(network: nn.Module) -> int:
    """Of all weights and buffers."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def multiply_adds(network: nn.Module, *arguments: Any, **more: Any) -> float:
    """Of one call with these arguments, which have shapes alone (device meta), as the network has."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*arguments, **more)
    return float(counter.get_total_flops()) / 2


@functools.cache
def classifier_cost(
    backbone: str, head: str, classes: int, channels: int, size: tuple[int, int], published: int | None = None
) -> NetworkCost:
    """Of a classifier on images of (height, width).

    Args:
        published: the side that images are enlarged to in front of it; None: they are not.
    """
    height, width = (published, published) if published else size
    side = height if height == width else (height, width)
    with META:
        network = build_classifier(backbone, head, classes, in_chans=channels, image_size=side)
    x = torch.zeros(1, channels, height, width, device=META)
    shown = _shown(network, x)
    return NetworkCost(multiply_adds(network, x), numbers(network), network.num_features, shown)


def _shown(network: Classifier, x: torch.Tensor) -> tuple[int, ...] | None:
    with torch.no_grad():
        found = network.eval()(x).feature_map
    return None if found is None else tuple(found.shape[1:])


def teacher_cost(teacher: TeacherOptions, classes: int, channels: int, size: tuple[int, int]) -> NetworkCost:
    """Of the network that `teacher` names, at the size that it sees images of `size` in."""
    name = automatic_teacher(max(size)) if teacher.model == "auto" else teacher.model
    side = teacher.image_size or published_side(name)
    return classifier_cost(name, "linear", classes, channels, size, side)


@functools.cache
def backbone_forward(backbone: str, channels: int, size: tuple[int, int]) -> float:
    """Multiply-adds of a backbone's forward pass on an image of (height, width)."""
    side = size[0] if size[0] == size[1] else size
    with META:
        network = create_backbone(backbone, in_chans=channels, image_size=side)
    return multiply_adds(network, torch.zeros(1, channels, *size, device=META))
