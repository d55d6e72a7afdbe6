"""ATOL, auxiliary task-based OOD learning. Source: Zheng et al., NeurIPS 2023 (methods.md B11).

    auxiliary in-distribution images G(z), z ~ N(mu_y, std^2 I), and outliers G(z), z uniform in a wide cube
    L = CE (labels smoothed by 0.5) on real and auxiliary images + CE(U, softmax f) on the outliers
        + trade_off * SupCon(0.07) on the features of real and auxiliary images

A trained classifier is fine-tuned, gradients clipped to norm 1. Published for CIFAR-10: lr 0.005, mean 5, std 0.1,
trade_off 1 (the defaults); for CIFAR-100: lr 0.04, mean 1.2, std 0.5, trade_off 5.

Departures, each on purpose. Real and auxiliary images of a class share a label in SupCon, so the domains are pulled
together; the official code shifts the auxiliary labels. The outliers are new in every step, not in every epoch, and are
kept out of the classes.
"""

from __future__ import annotations

from pydantic import Field

from ..losses.smoothed_cross_entropy import SmoothedCrossEntropyLoss
from ..losses.supcon import SupConLoss
from ..losses.uniform_target import UniformTargetLoss
from ..outliers.images.auxiliary_latents import AuxiliaryLatents, LatentOptions
from .base import Method, MethodContext, MethodOptions, Stage, register


class ATOLOptions(MethodOptions, LatentOptions):
    """Published defaults for CIFAR-10. `id_ratio`, `ratio`: auxiliary images and outliers per in-distribution image."""

    smoothing: float = Field(default=0.5, ge=0, lt=1)
    weight: float = Field(default=1.0, ge=0)
    trade_off: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    id_ratio: float = Field(default=1.0, gt=0)
    ratio: float = Field(default=4.0, gt=0)
    finetune_epochs: int = Field(default=10, ge=1)
    finetune_lr: float = Field(default=0.005, gt=0)


@register
class ATOL(Method):
    """A generator's crafted latents as auxiliary classes and outliers (Zheng et al., NeurIPS 2023)."""

    name = "atol"
    Options = ATOLOptions
    score = "max_logit"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: ATOLOptions = self.options
        inside, outside = context.per_step(o.id_ratio), context.per_step(o.ratio)
        finetune = Stage(
            "auxiliary",
            o.finetune_epochs,
            o.finetune_lr,
            AuxiliaryLatents(inside, outside, context.num_classes, o),
            (
                SmoothedCrossEntropyLoss(o.smoothing),
                UniformTargetLoss(o.weight),
                SupConLoss(o.trade_off, o.temperature),
            ),
            head_loss=False,
            clip=1.0,
            warmup=0.0,
        )
        return context.after_classifier(finetune)
