"""Whether a CPU's int8 kernels may compute a file: only where their sums are the graph's.

x86 processors without VNNI add two 8-bit products in 16 bits. Weights of 8 bits overflow those (2 x 255 x 127 > 2^15),
weights of 7 bits do not; symmetric activations (target "tensorrt") are made for other kernels. Where the sums are not
exact, what lies between the roundings is computed in float32.
"""

from __future__ import annotations

import platform

from ..latency.machine import cpu_flags
from ..manifest import Manifest

_X86 = ("x86_64", "amd64", "i386", "i686")
_WIDE = {"avx512_vnni", "avx_vnni"}  # four products at once, in 32 bits


def exact_in_int8(manifest: Manifest) -> bool:
    """Whether int8 kernels of this machine's CPU give what the file says."""
    change = manifest.precision_change
    if change is None or manifest.precision != "int8":
        return True
    return change.target == "cpu" and (change.weight_bits < 8 or _adds_in_32_bits())


def _adds_in_32_bits() -> bool:
    """Unknown flags of an x86 processor (macOS, Windows) are none."""
    return platform.machine().lower() not in _X86 or bool(_WIDE & cpu_flags())
