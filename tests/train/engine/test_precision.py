"""Which precision networks train in: what was asked for, else what the device computes in."""

from __future__ import annotations

import pytest
import torch

from guard.errors import ConfigError
from train.engine.precision import check_precision, computing_in, mixed_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def computed(device: torch.device) -> torch.dtype:
    """Of a product under the context, on the CPU."""
    context = mixed_precision(device)()
    kind = "bf16" if isinstance(context, torch.autocast) and context.fast_dtype == torch.bfloat16 else "fp32"
    return torch.bfloat16 if kind == "bf16" else torch.float32


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
