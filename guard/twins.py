"""Modules that two packages provide, for CPUs and for GPUs: with both installed, one overwrites the other's files."""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from typing import Any

from .errors import MissingExtraError, RuntimeUnavailableError

TWINS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11"),
}


@functools.cache
def twin(module: str) -> Any:
    """The module, from whichever of its packages is installed.

    Raises:
        RuntimeUnavailableError: several of them are.
        MissingExtraError: none is.
    """
    installed = [name for name in TWINS[module] if _installed(name)]
    if len(installed) > 1:
        raise RuntimeUnavailableError(
            f"{' and '.join(installed)} are both installed and overwrite each other; "
            f"run: pip uninstall -y {' '.join(installed)}, then install one of ood-guard[cpu] and ood-guard[gpu]"
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(module, "cpu") from error


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
