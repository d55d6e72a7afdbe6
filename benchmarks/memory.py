"""How much memory a call takes at its peak: what the process holds beyond what it held before (Linux)."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above(call: Callable[[], object]) -> float:
    """MiB of resident memory (libraries that the call loads included) above what there was, at the worst moment."""
    gc.collect()
    _give_back()
    RESET.write_text("5")  # "reset the peak resident set size", proc(5)
    before = _mib("VmRSS")
    result = call()
    peak = _mib("VmHWM")
    del result
    return max(0.0, peak - before)


def _mib(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{STATUS} has no {field}: memory can be measured on Linux only")
    return int(found[1]) / 1024


def _give_back() -> None:
    """Let glibc return freed memory, which would otherwise be there to be used unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
