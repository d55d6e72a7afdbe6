"""The rejection network on a frozen classifier. Source: DMR's detector (methods.md A4), for any image outliers.

    L = mean binary cross-entropy of B(F(x)), in-distribution = 0, outlier = 1;   B a 2-layer MLP

The classifier is trained first (or comes from ``init=``) and is then frozen in eval mode: its labels and probabilities
stay what they were, to the bit. The outliers are images that you give, or a synthesiser's: "patch_shuffle" (default:
shuffled patches keep an image's pixel statistics, which averages do not) or "pixel_average".
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from guard.scores.rejection import Rejection

from ..method import Context, Method, MethodOptions, Stage
from ..registry import register
from ..regularizers.rejection_bce import RejectionLoss
from ..synthesis.images import image_source
from ..synthesis.match import Matched, checked


class RejectionOptions(MethodOptions):
    """DMR's schedule: 10 epochs at lr 0.01. ``tap="map"`` with ``hidden=2048`` is its head.

    `match`: what each outlier takes over from an in-distribution image ("spectrum", "contrast" ..., docs/outliers.md).
    `treat_id`: half of the in-distribution images of every batch take it over from others too.
    """

    hidden: int = Field(default=512, ge=1)
    tap: Literal["pooled", "map"] = "pooled"
    ratio: float = Field(default=1.0, gt=0)
    head_epochs: int = Field(default=10, ge=1)
    head_lr: float = Field(default=0.01, gt=0)
    match: tuple[str, ...] = ()
    treat_id: bool = False

    @field_validator("match", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        return checked(names, online=True)

    @model_validator(mode="after")
    def _something_to_treat(self) -> RejectionOptions:
        if self.treat_id and not self.match:
            raise ValueError("treat_id=True needs match= (what is to be treated), got none")
        return self


@register
class RejectionNetwork(Method):
    """A 2-layer MLP on frozen features that tells outlier images from in-distribution ones (DMR's head)."""

    name = "rejection"
    Options = RejectionOptions
    score = "rejection"
    wants_outliers = "optional"

    def score_options(self) -> dict[str, Any]:
        return {"hidden": self.options.hidden, "tap": self.options.tap}

    def stages(self, context: Context) -> list[Stage]:
        o: RejectionOptions = self.options
        outliers = image_source(
            context.outliers or {"patch_shuffle": 1.0}, max(1, round(o.ratio * context.batch_size)), context.num_classes
        )
        if o.match:
            outliers = Matched(outliers, o.match)
        width = context.num_features
        if o.tap == "map":
            width = 1
            for side in context.map_shape or (context.num_features,):
                width *= side
        network = Rejection(**self.score_options())
        network.build(width)
        head = Stage(
            "rejection",
            o.head_epochs,
            o.head_lr,
            outliers,
            (RejectionLoss(network),),
            trains="nothing",
            match_inliers=o.match if o.treat_id else (),
            warmup=0.0,
        )
        if context.initialised:
            return [head]
        return [Stage("classifier", context.epochs, context.lr), head]
