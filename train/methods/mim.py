"""MIM, multiple input mixup. Source: Choi & Na, AAAI 2024 workshop.

    x~ = 1/k sum of k images of different classes;    L = CE + weight * CE(U, softmax f(x~))

A plain classifier is trained first, then fine-tuned for `tune_epochs` with batch-norm statistics frozen, as in the
official code (SGD 1e-4, momentum 0.9, one epoch). The code's permutations may mix images of one class or one image
with itself; here the k classes differ (all classes once where C < k). With ``init=`` the first stage is skipped.
"""

from __future__ import annotations

from guard.record import option

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.images.pixel_average import PixelAverage
from .base import Method, MethodContext, MethodOptions, Stage, register


class MIMOptions(MethodOptions):
    """The official defaults, k for CIFAR-10 (5 for CIFAR-100)."""

    k: int = option(10, "Images per average, each of a class of its own.", common=True, ge=2)
    weight: float = option(1.0, "Weight of the uniform target on averages.", common=True, ge=0)
    ratio: float = option(1.0, "Averages per in-distribution image of a batch.", gt=0)
    tune_epochs: int = option(1, "Epochs of tuning after the classifier's own.", common=True, ge=1)
    tune_lr: float = option(1e-4, "Peak learning rate of the tuning.", gt=0)


@register
class MIM(Method):
    """Fine-tuning to be uniform on pixel averages of k images of different classes (Choi & Na 2024)."""

    name = "mim"
    Options = MIMOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: MIMOptions = self.options
        outliers = PixelAverage(context.per_step(o.ratio), context.num_classes, k=o.k)
        tuning = Stage(
            "mixup",
            o.tune_epochs,
            o.tune_lr,
            outliers,
            (UniformTargetLoss(o.weight),),
            freeze_norm=True,
            nesterov=False,
            weight_decay=0.0,
            warmup=0.0,
        )
        return context.after_classifier(tuning)
