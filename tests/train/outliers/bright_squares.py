"""A classifier that looks for something bright, and images with one bright square: the key region is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.graph.module import GuardModule
from guard.graph.outputs import Backbone, Classifier
from guard.heads import create_head
from guard.manifest import Normalisation
from guard.scores import create_score

NORMALISATION = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)


class Brightness(Backbone):
    """A map of two channels, 4 pixels wide each: how far above and how far below grey."""

    num_features = 2

    def forward_map(self, x: Tensor) -> Tensor:
        grey = F.avg_pool2d(x.mean(1, keepdim=True), 4)
        return torch.cat([grey, -grey], 1).relu()

    def pool(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean((2, 3))


def bright_or_dark() -> GuardModule:
    """Class 0 is "bright somewhere", class 1 "dark somewhere"."""
    head = create_head("linear", 2, 2)
    head.load_state_dict({"linear.weight": torch.eye(2), "linear.bias": torch.zeros(2)})
    return GuardModule(Classifier(Brightness(), head), create_score("energy"), NORMALISATION)


def bright_squares() -> Tensor:
    """16 x 16: grey with one bright 8 x 8 square, at another place in each."""
    x = torch.full((4, 16, 16, 3), 100, dtype=torch.uint8)
    for i, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (4, 4)]):
        x[i, top : top + 8, left : left + 8] = 250
    return x
