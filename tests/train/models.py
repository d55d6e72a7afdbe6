"""Classifiers that users bring, small."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sequential(classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Convolution, pooling, linear: nothing named."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


class Dropped(nn.Module):
    """Dropout between the features and the last linear layer, as torchvision's VGG and MobileNet have."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Linear(32, 16)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.hidden(self.features(x)).relu()))


class Convolutional(nn.Module):
    """Classes by a 1 x 1 convolution, as in SqueezeNet: no linear layer anywhere."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 12, 3, 2), nn.ReLU())
        self.classes = nn.Conv2d(12, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.body(x)).mean((2, 3))


class Unfound(nn.Module):
    """Logits from a parameter of its own: no module gives them, so their features are nowhere to be found."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = nn.Parameter(torch.randn(classes, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) @ self.classes.T


class Answering(nn.Module):
    """`sequential` followed by whatever `answer` makes of its logits."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.network = sequential()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.network(x))  # type: ignore[operator]
