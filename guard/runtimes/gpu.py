"""The GPU of this machine, seen through cuda-bindings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import MissingExtraError, RuntimeUnavailableError


@dataclass(frozen=True, slots=True)
class Gpu:
    """What an engine is built for: the name, like "NVIDIA H200", and the compute capability, like "SM90"."""

    name: str
    capability: str

    @property
    def slug(self) -> str:
        """Both as a part of a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.name} {self.capability}".lower()).strip("-")


def cuda_available() -> bool:
    """Whether cuda-bindings is installed and sees a GPU."""
    try:
        status, count = cuda_runtime().cudaGetDeviceCount()
    except MissingExtraError:
        return False
    return int(status) == 0 and bool(count)


def cuda_runtime() -> Any:
    """The module cuda.bindings.runtime; MissingExtraError where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError("cuda-bindings (needed to run a TensorRT engine)", "tensorrt-rtx") from error
    return runtime


def this_gpu() -> Gpu:
    """The current device.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        RuntimeUnavailableError: there is no GPU.
    """
    cuda = cuda_runtime()
    if not cuda_available():
        raise RuntimeUnavailableError(
            "a TensorRT engine runs on a CUDA GPU and this machine shows none; load the .onnx file instead"
        )
    device = checked(cuda.cudaGetDevice())
    properties = checked(cuda.cudaGetDeviceProperties(device))
    name = properties.name.decode(errors="replace") if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(name.rstrip("\0"), f"SM{properties.major}{properties.minor}")


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, or RuntimeUnavailableError with CUDA's own name of the failure."""
    status, *value = result
    if int(status) != 0:
        raise RuntimeUnavailableError(f"CUDA failed with {getattr(status, 'name', status)}")
    return value[0] if value else None
