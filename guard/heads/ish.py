"""ISH, intermediate tensor shaping. Source: Xu et al., ICLR 2024 (SCALE), and its authors' ish_reshaper.

    f = W h + b, in training and in use
    dL/dh = W' g,   dL/db = sum g,   dL/dW = sum over images of g s',   g = dL/df
    s = exp(S1 / S2) times the k = share * D largest of h by size, 0 elsewhere;   S1 = sum h, S2 = sum of those sizes

What an image has many small activations of, it weighs more in the update of W: those whose activations the score
`scale` would enlarge. The gradient to the features is the plain one, as in the authors' code, which also drops the
signs of s; here they are kept, which changes nothing for features after a ReLU. Only the update of W differs from
`linear`, whose graph this head exports.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..record import Record, option
from .base import full_precision, register_head
from .linear import LinearHead


@torch.no_grad()
def shaped(features: Tensor, share: float) -> Tensor:
    """s (N, D) of features (N, D); S1 / S2 is at most D / k, and 0 for features of 0."""
    h = full_precision(features)
    size, index = h.abs().topk(max(1, int(share * h.shape[-1])), dim=-1)
    rest = size.sum(-1, keepdim=True)
    ratio = h.sum(-1, keepdim=True) / torch.where(rest == 0, torch.ones_like(rest), rest)
    return torch.zeros_like(h).scatter(-1, index, ratio.exp() * h.gather(-1, index)).to(features.dtype)


def shaped_linear(features: Tensor, weight: Tensor, bias: Tensor, share: float) -> Tensor:
    """Logits (N, C) of features (N, D), to the bit `F.linear`'s, with the gradients above.

    By two products, the second less itself: what autograd knows of it is the gradient to the weight. Unlike an
    autograd function of its own it is right in every precision, and where gradients are differentiated again.
    """
    plain = F.linear(features, weight.detach(), bias)
    learned = F.linear(shaped(features, share), weight)
    return plain + (learned - learned.detach())


@register_head
class ISHHead(LinearHead):
    """W h + b, whose W learns from each image's largest activations, enlarged by exp(S1 / S2)."""

    name: ClassVar[str] = "ish"
    source: ClassVar[str] = "Xu et al., ICLR 2024"
    score: ClassVar[str] = "scale"

    class Options(Record):
        share: float = option(
            0.15, "Share of an image's activations, in (0, 1], that the gradient of W sees.", common=True, gt=0, le=1
        )
        weight_decay: float = option(5e-5, "Weight decay of W, in place of the network's.", ge=0)

    def forward(self, features: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(features)
        return shaped_linear(features, self.linear.weight, self.linear.bias, self.options.share)

    def own_decay(self) -> dict[nn.Parameter, float]:
        return {self.linear.get_parameter("weight"): self.options.weight_decay}
