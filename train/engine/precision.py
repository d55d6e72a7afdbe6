"""The precision that networks are trained and run in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch

from guard.errors import ConfigError

from .unread_taps import ExactTaps

_ASKED: ContextVar[str] = ContextVar("precision", default="auto")


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """While this is open, `mixed_precision` gives "fp32", "bf16", or what suits the device ("auto")."""
    token = _ASKED.set(precision)
    try:
        yield
    finally:
        _ASKED.reset(token)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 on a GPU that only emulates it.

    Raises:
        ConfigError: with what to ask for.
    """
    if precision == "bf16" and device.type == "cuda" and not cuda_has_bf16():
        raise ConfigError("precision='bf16' is emulated on this GPU (Ampere and later compute in it); give 'fp32'")


def mixed_precision(device: torch.device) -> Any:
    """A factory of autocast contexts: bf16 on devices that compute in it, elsewhere float32; or as `computing_in`."""
    asked = _ASKED.get()
    if asked == "bf16" or (asked == "auto" and has_bf16(device)):
        return lambda: _bf16(device)
    return contextlib.nullcontext


@contextlib.contextmanager
def _bf16(device: torch.device) -> Iterator[None]:
    exact = ExactTaps() if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16), exact:
        yield


def has_bf16(device: torch.device) -> bool:
    """Whether it computes in bf16, and does not only emulate it."""
    return cuda_has_bf16() if device.type == "cuda" else cpu_has_bf16()


def cuda_has_bf16() -> bool:
    """Ampere and later; Turing and Volta emulate it, several times slower than float32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: elsewhere bf16 is emulated and slower than float32."""
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(check() for check in checks if check is not None)
