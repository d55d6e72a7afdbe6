"""A method = synthesiser + regulariser + head + score + schedule; the protocols, with shapes (design, section 4.4).

Letters: N in-distribution images in a batch, K outliers, C classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from guard.manifest import Record
from guard.module import Taps

if TYPE_CHECKING:
    from guard.scores import Score

    from .data import ImageData


class IDBatch(NamedTuple):
    """The in-distribution batch before the network: uint8 (N, H, W, channels), int64 (N,)."""

    images: Tensor
    labels: Tensor


class Outliers(NamedTuple):
    """Synthetic outliers.

    data: features (K, D) for space "feature", uint8 (K, H, W, channels) for space "image".
    origin: how they were made, for people.
    ready: scalar bool tensor; False while they are not yet what they should be (a queue is still filling), and then
        the regulariser's terms count nothing in this step. None: always ready.
    """

    data: Tensor
    origin: str
    ready: Tensor | None = None


class Synthesiser(nn.Module):
    """Makes outliers during training. State that must survive a restart lives in buffers."""

    space: ClassVar[Literal["feature", "image"]]

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """See the detached features (N, D) of the current in-distribution batch."""

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        """Called before each epoch in which `sample` may be called."""

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """Outliers for this step. No host synchronisation: everything stays on the batch's device."""
        raise NotImplementedError(f"{type(self).__name__} must define sample")


@dataclass(frozen=True, slots=True)
class Batch:
    """What a regulariser sees: the taps of N in-distribution images with labels (N,), and of K outliers.

    Feature-space outliers have logits from the classifier's last layer and no map.
    """

    inliers: Taps
    labels: Tensor
    outliers: Taps


class Regulariser(nn.Module):
    """Loss terms that teach the difference; learned parts are parameters, trained with the classifier."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> weighted scalar term, to be added to the cross-entropy."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def hand_over(self, score: Score) -> None:
        """Put what was learned into the score of the finished guard, where the score carries it."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        epochs, lr: passes over the data; peak learning rate of the cosine schedule.
        start_epoch: the first epoch (from 0) in which outliers are made and the regulariser acts.
        train_classifier: False freezes backbone and head (eval mode, no gradients): only the regulariser learns.
        freeze_norm: keep batch-norm statistics as they are (eval mode) while the weights learn.
        warmup: share of the steps with a linearly rising learning rate.
    """

    name: str
    epochs: int
    lr: float
    synthesiser: Synthesiser | None = None
    regulariser: Regulariser | None = None
    start_epoch: int = 0
    train_classifier: bool = True
    freeze_norm: bool = False
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warmup: float = 0.05


@dataclass(frozen=True)
class Context:
    """What a method may know when it builds its stages."""

    num_classes: int
    num_features: int
    map_shape: tuple[int, ...] | None
    class_counts: tuple[int, ...]
    epochs: int
    lr: float
    batch_size: int
    seed: int
    device: torch.device
    outliers: ImageData | str | None
    initialised: bool  # the network starts from a trained run (init=)
    score: Score


class MethodOptions(Record):
    """Options every method has."""


class Method:
    """Base of all methods. A subclass names its parts and returns its stages; the loop does the rest.

    Attributes:
        name: how users call it.
        head, score: what it uses unless the user says otherwise.
        epochs, lr: its defaults.
        wants_outliers: "no", "optional" or "required": whether `outliers=` is used.
    """

    name: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    head: ClassVar[str] = "linear"
    score: ClassVar[str] = "energy"
    epochs: ClassVar[int] = 30
    lr: ClassVar[float] = 0.1
    wants_outliers: ClassVar[Literal["no", "optional", "required"]] = "no"

    def __init__(self, options: Any) -> None:
        self.options = options

    def stages(self, context: Context) -> list[Stage]:
        """The stretches of training, in order."""
        raise NotImplementedError(f"{type(self).__name__} must define stages")

    def score_options(self) -> dict[str, Any]:
        """Options of the score that follow from the method's (e.g. the rejection head's width)."""
        return {}
