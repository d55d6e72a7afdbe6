"""ASCOOD: outliers made of what a class is recognised by. Source: Regmi, CVPR 2026 (arXiv 2411.10794).

    x' = x with the pixels that speak most for its own class permuted, or overdrawn by the gradient of its logit
    L = CE(f(x), y) + weight * CE(U, softmax f(x')),   f = W z + b, z the standardised features (head "standardised")

The outliers are made of every batch by the network as it is at that step, in eval mode
(`train.outliers.images.salient_pixels`), which costs a forward and a backward pass beside the joint batch's.
"""

from __future__ import annotations

from guard.record import option

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.images.salient_pixels import SalientOptions, SalientPixels
from .base import Method, MethodContext, MethodOptions, Stage, register
from .from_store import shared_options


class ASCOODOptions(SalientOptions, MethodOptions):
    """The published defaults; with 100 classes the authors weigh 5."""

    weight: float = option(1.0, "Weight of the uniform target on outliers.", common=True, ge=0)
    ratio: float = option(1.0, "Outliers per in-distribution image of a batch; fewer are cheaper.", common=True, gt=0)
    step_end: float | None = option(
        None,
        "What step falls to, linearly over the epochs (Waterbirds: from 300 to 30); None: it stays.",
        read_if={"mode": "gradient"},
        gt=0,
    )


@register
class ASCOOD(Method):
    """Unsure where the pixels that its class is recognised by are permuted or overdrawn (Regmi, CVPR 2026)."""

    name = "ascood"
    Options = ASCOODOptions
    head = "standardised"
    score = "energy"

    def default_score(self) -> str:
        """MSP for outliers made by gradients, which may have the energies of images (docs/methods/ascood.md)."""
        return "msp" if self.options.mode == "gradient" else self.score

    def stages(self, context: MethodContext) -> list[Stage]:
        o: ASCOODOptions = self.options
        count = context.per_step(o.ratio)
        outliers = SalientPixels(
            count,
            context.num_classes,
            falls=None if o.step_end is None else (o.step_end, context.epochs),
            **shared_options(o, SalientOptions),
        )
        return [Stage("classifier", context.epochs, context.lr, outliers, (UniformTargetLoss(o.weight),))]
