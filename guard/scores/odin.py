"""Temperature and a small step towards the predicted class. Source: Liang et al., ICLR 2018.

    x' = x - eps sign( grad_x CE(f(x) / T, argmax f(x)) )           ood_score = - max_c softmax(f(x') / T)_c

eps is in units of [0, 1] pixels, as in the authors' code, which divides the sign by each channel's std: the classifier
sees (x - mean) / std, so a step of eps there is eps / std here. x' may leave [0, 1]: nothing is clipped or rounded, as
there. Where the gradient is exactly 0 nothing moves, as in pytorch-ood; the authors' code moves by -eps.

The step needs the gradient with respect to the image: two more passes through the network and no ONNX graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError
from ..record import Record, option
from .base import Need, Score, register_score
from .msp import msp

if TYPE_CHECKING:
    from ..graph.outputs import Outputs


def ascent(x: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """sign(grad_x CE(f / T, argmax f)), the same shape as x; logits (N, C) were computed from x with gradients on.

    The sum over the batch, not its mean: an image's gradient does not depend on its neighbours.
    """
    loss = F.cross_entropy(logits / temperature, logits.detach().argmax(-1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)  # of x only: the parameters collect nothing
    return gradient.sign()


@register_score
class ODIN(Score):
    """ood_score = - max softmax(f(x') / T) in [-1, -1/C], x' one step of eps from x towards its predicted class."""

    name: ClassVar[str] = "odin"
    equation: ClassVar[str] = "- max_c softmax(f(x') / T)_c, x' = x - eps sign(grad_x CE(f(x) / T, argmax f(x)))"
    source: ClassVar[str] = "Liang et al., ICLR 2018"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "input gradient")
    no_export: ClassVar[str] = "it needs the gradient with respect to the image, which an ONNX graph cannot compute"
    nearest: ClassVar[str] = "msp with temperature=1000"

    class Options(Record):
        temperature: float = option(1000.0, "T, above 0, in units of the logits.", common=True, gt=0)
        eps: float = option(
            0.0014, "Size of the step towards the predicted class, in units of [0, 1] pixels.", common=True, ge=0
        )

    def perturb(self, x: Tensor, look: Callable[[Tensor], Outputs], unit: Tensor) -> tuple[Outputs, Tensor]:
        # under inference_mode, as runtimes work, nothing has gradients: step out of it, with a copy that may have one
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            outputs = look(x)
            if not outputs.logits.requires_grad:
                raise ModelError(
                    "score 'odin' needs the gradient with respect to the image, and this classifier's logits have none "
                    f"(it computes them without autograd); the nearest score is {self.nearest}"
                )
            step = self.options.eps * unit * ascent(x, outputs.logits, self.options.temperature)
            shown = outputs._replace(
                features=outputs.features.detach(), logits=outputs.logits.detach(), feature_map=None
            )
            return shown, x.detach() - step

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return msp(logits, self.options.temperature)
