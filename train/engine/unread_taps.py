"""Convolutions in bf16 whose weights' gradients oneDNN leaves unwritten: computed in float32 instead.

A kernel's tap that meets nothing but padding has gradient 0. Such are the outer taps of a 3x3 kernel at stride 2 on a
map of one pixel: a ResNet's last stage, from images of 16 pixels or fewer. On CPUs with AVX512 or AMX, oneDNN's bf16
kernels leave whatever was in memory in place of that 0, or end the process (torch 2.14): training then diverges, on
one run of a few.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Number = int | tuple[int, ...] | list[int]


class ExactTaps(TorchFunctionMode):
    """While it lasts, under CPU autocast, a 2-d convolution with a tap that meets only padding runs in float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        taps = TAPS.get(func)
        if taps is None or not taps(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_float, args), **{name: _float(value) for name, value in kwargs.items()})


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Number = 1,
    padding: Number | str = 0,
    dilation: Number = 1,
    groups: int = 1,
) -> bool:
    """Whether one of `weight`'s taps reads nothing of `input`, given what ``conv2d`` is given."""
    for axis in range(2):
        taps, gap = weight.shape[2 + axis], _of(dilation, axis)
        if isinstance(padding, str):  # of an even kernel one place fewer is looked at: float32 too often
            before = gap * (taps - 1) // 2 if padding == "same" else 0
        else:
            before = _of(padding, axis)
        if _unread(input.shape[2 + axis], taps, _of(stride, axis), before, gap):
            return True
    return False


def _conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Number = 1,
    padding: Number = 0,
    output_padding: Number = 0,
    groups: int = 1,
    dilation: Number = 1,
) -> bool:
    """Whether all that one of `weight`'s taps writes is cropped, given what ``conv_transpose2d`` is given."""
    for axis in range(2):
        taps, step, cut, gap = weight.shape[2 + axis], _of(stride, axis), _of(padding, axis), _of(dilation, axis)
        side = (input.shape[2 + axis] - 1) * step - 2 * cut + gap * (taps - 1) + 1 + _of(output_padding, axis)
        if _unread(side, taps, step, cut, gap):  # the gradient is that of the convolution back
            return True
    return False


TAPS: dict[Callable[..., Any], Callable[..., bool]] = {
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
}


@functools.cache
def _unread(side: int, taps: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether one of `taps` is over padding at every place of a row of `side` pixels."""
    places = (side + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    starts = range(-padding, -padding + places * stride, stride)
    return any(all(not 0 <= start + tap * dilation < side for start in starts) for tap in range(taps))


def _of(value: Number, axis: int) -> int:
    if isinstance(value, int):
        return value
    return value[axis if len(value) > 1 else 0]


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
