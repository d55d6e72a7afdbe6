"""MIM, multiple input mixup. Source: Choi & Na, AAAI 2024 workshop (methods.md B7).

    x~ = 1/k sum of k images of different classes;    L = CE + weight * CE(U, softmax f(x~))

A plain classifier is trained first, then fine-tuned for `finetune_epochs` with batch-norm statistics frozen, as in the
official code (SGD 1e-4, momentum 0.9, one epoch). The code's permutations may mix images of one class or one image
with itself; here the k classes differ (all classes once where C < k). With ``init=`` the first stage is skipped.
"""

from __future__ import annotations

from pydantic import Field

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.images.pixel_average import PixelAverage
from .base import Method, MethodContext, MethodOptions, Stage, register


class MIMOptions(MethodOptions):
    """The official defaults, k for CIFAR-10 (5 for CIFAR-100). `ratio`: outliers per in-distribution image."""

    k: int = Field(default=10, ge=2)
    weight: float = Field(default=1.0, ge=0)
    ratio: float = Field(default=1.0, gt=0)
    finetune_epochs: int = Field(default=1, ge=1)
    finetune_lr: float = Field(default=1e-4, gt=0)


@register
class MIM(Method):
    """Fine-tuning to be uniform on pixel averages of k images of different classes (Choi & Na 2024)."""

    name = "mim"
    Options = MIMOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: MIMOptions = self.options
        outliers = PixelAverage(context.per_step(o.ratio), context.num_classes, k=o.k)
        finetune = Stage(
            "mixup",
            o.finetune_epochs,
            o.finetune_lr,
            outliers,
            (UniformTargetLoss(o.weight),),
            freeze_norm=True,
            nesterov=False,
            weight_decay=0.0,
            warmup=0.0,
        )
        return context.after_classifier(finetune)
