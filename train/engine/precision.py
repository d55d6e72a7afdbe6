"""The precision that networks are trained and run in."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def mixed_precision(device: torch.device) -> Any:
    """A factory of autocast contexts: bf16 on CUDA, and on CPUs that compute in it; elsewhere float32."""
    if device.type == "cuda" or cpu_has_bf16():
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: elsewhere bf16 is emulated and slower than float32."""
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(check() for check in checks if check is not None)
