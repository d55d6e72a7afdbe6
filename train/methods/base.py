"""A method = synthesiser + regulariser + head + score + schedule.

Letters: N in-distribution images in a batch, K outliers, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from guard.errors import ConfigError
from guard.record import Record, Registry, changed, shown

from ..losses.base import Regulariser
from ..outliers.base import Inliers, OutlierMix, Synthesiser, get_synthesiser

if TYPE_CHECKING:
    from guard.scores import Score


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        epochs, lr: passes over the data; peak learning rate of the cosine schedule.
        regularisers: what the loss does with the outliers; each may start later than `start_epoch`.
        start_epoch: the first epoch (from 0) in which outliers are made and the regularisers act.
        trains: "classifier"; "head" freezes the backbone (eval mode, no gradients); "nothing" freezes the head too,
            so that only the regularisers learn and labels and probabilities stay what they are, to the bit.
        head_loss: whether the head's own loss (cross-entropy and its kin) is one of the terms.
        match_inliers: what half of the in-distribution images take over from others in every batch, as matched outliers
            do (`train.outliers.matching`): then the traces of matching teach nothing. For frozen backbones.
        inliers: what is shown in place of the in-distribution images, before they are matched; None: themselves.
        views: how often each in-distribution image is in a batch, augmented apart.
        freeze_norm: keep batch-norm statistics as they are (eval mode) while the weights learn.
        optimizer: "sgd" (momentum, nesterov, weight decay) or "adam" (beta1 = momentum).
        clip: largest norm of the gradient, or None.
        warmup: share of the steps with a linearly rising learning rate.
        backbone_lr: learning rate of the backbone, as a share of `lr`.
        augmented: whether in-distribution images are augmented. Where the head alone learns from images as they are,
            they go through the frozen backbone once, not in every epoch.
    """

    name: str
    epochs: int
    lr: float
    synthesiser: Synthesiser | None = None
    regularisers: tuple[Regulariser, ...] = ()
    start_epoch: int = 0
    trains: Literal["classifier", "head", "nothing"] = "classifier"
    head_loss: bool = True
    match_inliers: tuple[str, ...] = ()
    inliers: Inliers | None = None
    views: int = 1
    freeze_norm: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"
    clip: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warmup: float = 0.05
    backbone_lr: float = 1.0
    augmented: bool = True

    @property
    def learns_labels_alone(self) -> bool:
        """Whether accuracy may choose its epoch: it says nothing of what outliers and regularisers teach."""
        alone = self.synthesiser is None and not self.regularisers
        return alone and self.head_loss and self.trains != "nothing" and self.epochs > 1


@dataclass(frozen=True)
class MethodContext:
    """What a method may know when it builds its stages.

    `outliers` is what ``outliers=`` named: images or a synthesiser's name, with a weight each; None where not given.
    """

    num_classes: int
    num_features: int
    map_shape: tuple[int, ...] | None
    class_counts: tuple[int, ...]
    epochs: int
    lr: float
    batch_size: int
    seed: int
    device: torch.device
    outliers: OutlierMix | None
    initialised: bool  # the network starts from a trained run (init=)
    score: Score
    pretrained: bool = False  # it starts from published weights (pretrained=)

    def per_step(self, ratio: float) -> int:
        """Images per step for `ratio` of them per in-distribution image; at least 1."""
        return max(1, round(ratio * self.batch_size))

    def epoch_at(self, share: float) -> int:
        """The epoch at this share of them, rounded down: 0.29 of 100 is 29, though 0.29 * 100 is a little less."""
        return int(share * self.epochs + 1e-9)

    def after_classifier(self, *stages: Stage) -> list[Stage]:
        """The stage of a plain classifier, unless the network starts from a trained run, and then these."""
        return list(stages) if self.initialised else [Stage("classifier", self.epochs, self.lr), *stages]


class MethodOptions(Record):
    """Options every method has."""


class Method:
    """Base of all methods. A subclass names its parts and returns its stages; the loop does the rest.

    Attributes:
        name: how users call it.
        head, score: what it uses unless the user says otherwise.
        head_scores: heads with another score than `score`, and which.
        heads: the heads it can train; empty: all.
        epochs, lr: its defaults.
        wants_outliers: "no", "optional" or "required": whether `outliers=` is used.
        only_classifies: nothing in its training is for one score, so that pretrained networks get theirs.
        teaches: scores with this in `Score.trained_by` learn from it too: another method's name ("" for its own only).
        makers: the synthesisers that fill the method's own store, where ``outliers=`` names nothing in its place. Where
            it does, their options are not read, and those of `own_outliers`.
        own_outliers: further options that only say how the method makes outliers of its own.
        read_anyway: options of the makers that the method reads with any outliers.
    """

    name: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    head: ClassVar[str] = "linear"
    heads: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str] = "energy"
    head_scores: ClassVar[Mapping[str, str]] = {}
    epochs: ClassVar[int] = 30
    lr: ClassVar[float] = 0.1
    wants_outliers: ClassVar[Literal["no", "optional", "required"]] = "no"
    only_classifies: ClassVar[bool] = False
    teaches: ClassVar[str] = ""
    makers: ClassVar[tuple[str, ...]] = ()
    own_outliers: ClassVar[frozenset[str]] = frozenset({"store_size"})
    read_anyway: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: Any) -> None:
        self.options = options

    def stages(self, context: MethodContext) -> list[Stage]:
        """The stretches of training, in order."""
        raise NotImplementedError(f"{type(self).__name__} must define stages")

    def peak_lr(self, batch_size: int) -> float:
        """Of the training from scratch, where none is asked for."""
        return self.lr

    @classmethod
    def unread_with(cls, outliers: Any) -> frozenset[str]:
        """Options that only say how the method makes outliers of its own, where ``outliers=`` names others."""
        if outliers is None or not cls.makers:
            return frozenset()
        makers = [get_synthesiser(name).Options for name in cls.makers]
        return cls.own_outliers.union(*(maker.model_fields for maker in makers)) - cls.read_anyway

    def check_outliers(self, outliers: Any) -> None:
        """Refuse options that say how the method makes outliers of its own, where ``outliers=`` names others.

        Raises:
            ConfigError: naming the first of them.
        """
        unread = [name for name in changed(self.options) if name in self.unread_with(outliers)]
        if unread:
            name = unread[0]
            raise ConfigError(
                f"method {self.name!r} does not read {name}={shown(getattr(self.options, name))} where outliers= names "
                "the images; drop it, or omit outliers= so that the method makes its own"
            )

    def default_score(self) -> str:
        """`score`, or another where an option changes what is trained."""
        return self.score

    def score_options(self) -> dict[str, Any]:
        """Options of the score that follow from the method's (e.g. the rejection head's width)."""
        return {}


METHODS: Registry[type[Method]] = Registry("method", Method, "See: guard methods.")
register = METHODS.register
list_methods = METHODS.names
get_method = METHODS.get
