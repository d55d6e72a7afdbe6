"""Batch norm over the rows of all processes, whatever the library's layer that asks for it.

    y = w (x - m) / sqrt(v + eps) + b;    m, v over all rows of all processes

    dL/dx = w / sqrt(v + eps) (dL/dy - mean dL/dy - x^ mean (dL/dy x^)),   x^ = (x - m) / sqrt(v + eps)

with both means over all rows. torch's SyncBatchNorm does this on GPUs alone, and replaces layers; here the function
that all layers call (torch's own, timm's with activation) is replaced while a network is shown its rows. Mean and
variance of each process are combined as by Chan et al. (1979), and not from sums of squares, which would cancel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from guard.heads.base import full_precision

from .distributed import Processes


class SyncedBatchNorm(TorchFunctionMode):
    """Within it `torch.nn.functional.batch_norm` in training takes the statistics of all processes' rows."""

    def __init__(self, us: Processes) -> None:
        super().__init__()
        self.us = us

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs.get("training"):
            return synced_batch_norm(*args, **kwargs, us=self.us)
        return func(*args, **kwargs)


def synced_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    us: Processes,
) -> Tensor:
    """As `torch.nn.functional.batch_norm` of x (N, C, ...), in training."""
    plain = full_precision(x[:0])
    w = plain.new_ones(x.shape[1]) if weight is None else weight
    b = plain.new_zeros(x.shape[1]) if bias is None else bias
    y, mean, variance, count = _Synced.apply(x, w, b, eps, us)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    return y  # type: ignore[no-any-return]


class _Synced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, us: Processes) -> tuple[Tensor, ...]:
        mean, variance, count = _moments(x, us)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        w = full_precision(weight) * scale
        y = torch.addcmul(_wide(full_precision(bias) - mean * w, x), full_precision(x), _wide(w, x)).to(x.dtype)
        return y, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, scale, count = ctx.saved_tensors
        dy, axes = full_precision(gradients[0]), _axes(x)
        normal = (full_precision(x) - _wide(mean, x)) * _wide(scale, x)
        own = torch.stack([dy.sum(axes), (dy * normal).sum(axes)])
        total = own.clone()
        torch.distributed.all_reduce(total)
        total /= count
        dx = _wide(full_precision(weight) * scale, x) * (dy - _wide(total[0], x) - normal * _wide(total[1], x))
        return dx.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None


def _moments(x: Tensor, us: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) over all rows of all processes, and how many numbers of a channel these are."""
    variance, mean = torch.var_mean(full_precision(x), _axes(x), correction=0)
    count = x.numel() // x.shape[1]
    mine = torch.cat([mean, variance, mean.new_full((1,), count)])
    every = [torch.empty_like(mine) for _ in range(us.world)]
    torch.distributed.all_gather(every, mine)
    means, variances, counts = torch.stack(every).double().split([len(mean), len(mean), 1], 1)
    total = counts.sum()
    centre = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - centre).square())).sum(0) / total
    return centre.to(mean.dtype), spread.to(mean.dtype), total.to(mean.dtype)


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _wide(channels: Tensor, x: Tensor) -> Tensor:
    """(C,) beside x (N, C, ...)."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))
