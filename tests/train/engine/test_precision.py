"""Which precision networks train in: what was asked for, else what the device computes in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from guard.errors import ConfigError
from train.engine.precision import check_precision, computing_in, mixed_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def computed(device: torch.device) -> torch.dtype:
    """Of a product under the context, on the CPU."""
    with mixed_precision(device)():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize("has", [True, False])
def test_bf16_is_taken_only_where_the_device_computes_in_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.precision.cpu_has_bf16", lambda: has)
    monkeypatch.setattr("train.engine.precision.cuda_has_bf16", lambda: has)
    expected = torch.bfloat16 if has else torch.float32
    assert computed(CPU) == expected
    with computing_in("fp32"):
        assert computed(CPU) == torch.float32
        with computing_in("bf16"):
            assert computed(CPU) == torch.bfloat16
        assert computed(CPU) == torch.float32
    assert computed(CPU) == expected
    check_precision("auto", CUDA)
    check_precision("bf16", CPU)
    if not has:
        with pytest.raises(ConfigError, match=r"emulated on this GPU .* give 'fp32'"):
            check_precision("bf16", CUDA)


CONVOLUTIONS = [(1, 3, 2, 1), (1, 5, 2, 2), (2, 7, 1, 3), (3, 3, 5, 1), (8, 3, 2, 1), (8, 3, 1, 1), (1, 1, 1, 0)]


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize(("side", "taps", "stride", "padding"), CONVOLUTIONS)
def test_the_gradient_of_every_tap_is_written(
    kind: type[nn.Conv2d], side: int, taps: int, stride: int, padding: int
) -> None:
    for _ in range(3):
        layer = kind(64, 64, taps, stride, padding, bias=False)
        exact = copy.deepcopy(layer)
        images = torch.randn(32, 64, side, side)
        poison = [torch.full_like(layer.weight, float("nan"), dtype=torch.bfloat16) for _ in range(6)]
        poison += [torch.full_like(layer.weight, float("nan")) for _ in range(6)]
        del poison  # what is allocated next, and not written, is seen
        with computing_in("bf16"), mixed_precision(CPU)():
            made = layer(images)
        made.float().square().sum().backward()
        exact(images).square().sum().backward()
        assert layer.weight.grad is not None
        assert exact.weight.grad is not None
        error = (layer.weight.grad - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
        assert error < 0.05


def test_only_where_a_tap_meets_nothing_is_float32_taken() -> None:
    with computing_in("bf16"), mixed_precision(CPU)():
        kept = functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3), stride=2, padding=1)
        exact = functional.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 3), stride=2, padding=1)
        after = functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3), padding="same")
        small = functional.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 7, 7), padding="same")
    assert (kept.dtype, exact.dtype, after.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert small.dtype == torch.float32
