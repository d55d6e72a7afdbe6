"""The rejection network on a frozen classifier. Source: DMR's detector (Choi & Na, CVPR 2024
workshop), for any image outliers.

    L = mean binary cross-entropy of B(F(x)), in-distribution = 0, outlier = 1;   B a 2-layer MLP
    head_kind="multiclass" (KIRBY): L = mean cross-entropy of B's C + 1 outputs, outliers being class C

The classifier is trained first (or comes from ``init=``) and is then frozen in eval mode: its labels and probabilities
stay what they were, to the bit. The outliers are images that you give, or a synthesiser's: "phase_mix" by default,
whose power spectra are in-distribution ones, so that no seam, blur or contrast is learned in place of the object.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from guard.errors import ConfigError
from guard.record import changed, option
from guard.scores.rejection import Rejection

from ..losses.rejection_bce import RejectionLoss
from ..outliers.base import Inliers, Synthesiser
from ..outliers.matching import Matched, check_treated, checked
from ..outliers.published_augmentation import AugmentedAnew
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register


class TuningOptions(MethodOptions):
    """DMR's schedule, 10 epochs at lr 0.01."""

    ratio: float = option(1.0, "Outliers per in-distribution image of a batch.", common=True, gt=0)
    tune_epochs: int = option(10, "Epochs of the rejection network after the classifier's own.", common=True, ge=1)
    tune_lr: float = option(0.01, "Peak learning rate of the rejection network.", gt=0)
    tune_momentum: float = option(0.9, "Momentum of its SGD (official: 0.8 for CIFAR-10).", ge=0, lt=1)
    tune_weight_decay: float = option(5e-4, "Weight decay of its matrices (official: 4e-4 for CIFAR-10).", ge=0)
    augment_outliers: bool = option(
        False, "Augment outliers at each visit, as the official code of DMR and KIRBY does."
    )
    match: tuple[str, ...] = option(
        (), "What each outlier takes over from an in-distribution image: spectrum, contrast ...", common=True
    )
    treat_id: bool = option(
        False, "Whether half of the in-distribution images of every batch take it over from others too."
    )
    head_kind: Literal["binary", "multiclass"] = option(
        "binary", "One output, or C + 1 as in KIRBY, which trains them with ratio 0.06."
    )

    @field_validator("match", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        return checked(names)

    @model_validator(mode="after")
    def _something_to_treat(self) -> Self:
        check_treated(self.treat_id, self.match)
        return self


class RejectionHeadOptions(TuningOptions):
    """``tap="map"`` with ``hidden=2048`` is DMR's head."""

    hidden: int = option(512, "Hidden units of the rejection network.", ge=1)
    tap: Literal["pooled", "map"] = option(
        "pooled", "What the rejection network reads: pooled features, or the flattened last feature map."
    )


class OnlineTuningOptions(TuningOptions):
    """As `TuningOptions`, for outliers that may be made in every step: these cannot be matched in "coding"."""

    @field_validator("match", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        return checked(names, online=True)


class RejectionOptions(RejectionHeadOptions):
    """As `RejectionHeadOptions`, for outliers that may be made in every step: these cannot be matched in "coding"."""

    @field_validator("match", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        return checked(names, online=True)


class FrozenRejection(Method):
    """A classifier, then a rejection network on it while it is frozen. Subclasses name the outliers.

    The network is all that the second stage trains, so labels and probabilities stay the classifier's, to the bit. With
    ``init=`` the first stage is skipped.
    """

    Options = RejectionHeadOptions
    score = "rejection"
    teaches = "rejection"
    wants_outliers = "optional"

    def outliers(self, context: MethodContext, count: int) -> Synthesiser:
        """What makes or draws `count` outliers per step."""
        raise NotImplementedError(f"{type(self).__name__} must define outliers")

    def augments(self, context: MethodContext) -> bool:
        """Whether outliers are augmented anew at each visit."""
        return bool(self.options.augment_outliers)

    def inliers(self) -> Inliers | None:
        """What the network sees in place of in-distribution images."""
        return None

    def score_options(self) -> dict[str, Any]:
        return {"hidden": self.options.hidden, "tap": self.options.tap}

    def stages(self, context: MethodContext) -> list[Stage]:
        return context.after_classifier(self.head_stage(context))

    def head_stage(self, context: MethodContext) -> Stage:
        """The stage that trains the rejection network and nothing else."""
        o: RejectionHeadOptions = self.options
        outliers = self.outliers(context, context.per_step(o.ratio))
        return Stage(
            "rejection",
            o.tune_epochs,
            o.tune_lr,
            AugmentedAnew(outliers) if self.augments(context) else outliers,
            (RejectionLoss(self._network(context)),),
            trains="nothing",
            match_inliers=o.match if o.treat_id else (),
            inliers=self.inliers(),
            momentum=o.tune_momentum,
            nesterov=o.tune_momentum > 0,
            weight_decay=o.tune_weight_decay,
            warmup=0.0,
        )

    def _network(self, context: MethodContext) -> Rejection:
        options = self.score_options()
        for score in context.score.parts():
            if isinstance(score, Rejection):  # the network that is trained here
                options = {
                    name: self._agreed(name, ours, getattr(score.options, name)) for name, ours in options.items()
                }
        width = context.num_features
        if options["tap"] == "map":
            width = math.prod(context.map_shape or (context.num_features,))
        network = Rejection(**options)
        network.build(width, 1 if self.options.head_kind == "binary" else context.num_classes + 1)
        return network

    def _agreed(self, name: str, ours: Any, asked: Any) -> Any:
        if ours != asked and name in changed(self.options):
            raise ConfigError(
                f"method {self.name!r} has {name}={ours!r}, and its score 'rejection' {name}={asked!r}: they are one "
                "network; give one of the two"
            )
        return asked


@register
class RejectionNetwork(FrozenRejection):
    """A 2-layer MLP on frozen features that tells outlier images from in-distribution ones (DMR's head)."""

    name = "rejection"
    Options = RejectionOptions

    def outliers(self, context: MethodContext, count: int) -> Synthesiser:
        source = image_source(context.outliers or {"phase_mix": 1.0}, count, context.num_classes)
        return Matched(source, self.options.match) if self.options.match else source
