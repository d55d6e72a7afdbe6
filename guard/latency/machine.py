"""What a number was measured on: processor, cores, instruction sets, memory, versions. No names of machines."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..cores import available_cores

# the instruction sets that decide how fast matrix products are in float32, bf16 and int8
FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
PACKAGES = ("ood-guard", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "bentoml")


def machine() -> dict[str, Any]:
    """A JSON-able description of this machine and the packages in use; `load` is the mean run queue at the call.

    Returns:
        cpu, cores (that this process may use), flags (of `FLAGS`), memory_gib, gpu ("" without one), system, python,
        packages (name -> version), load (over one minute; -1 where the system does not tell).
    """
    details, there = _cpuinfo(), cpu_flags()
    return {
        "cpu": details.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "flags": [flag for flag in FLAGS if flag in there],
        "memory_gib": _memory_gib(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0,
    }


def describe(facts: dict[str, Any]) -> str:
    """One line for the head of a table."""
    cores = f"{facts['cores']} core{'s' if facts['cores'] != 1 else ''}"
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    parts = [facts["cpu"], cores, " ".join(facts["flags"]), facts["gpu"], f"Python {facts['python']}", packages]
    return "; ".join(part for part in parts if part)


def cpu_flags() -> frozenset[str]:
    """What /proc/cpuinfo says that the first processor can do; empty where there is none."""
    details = _cpuinfo()
    return frozenset((details.get("flags") or details.get("Features") or "").split())


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none (macOS, Windows)."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _memory_gib() -> float:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0.0
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpu() -> str:
    """Count, name and CUDA version, only where torch is loaded already: looking must cost nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
