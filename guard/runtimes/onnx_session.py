"""ONNX Runtime behind the `Runtime` protocol. Imports onnxruntime, never torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cores import available_cores, cpu_quota
from ..errors import ConfigError, RuntimeUnavailableError
from ..twins import twin
from . import Outputs, check_images

_OUTPUTS = ["label", "probabilities", "ood_score", "is_ood"]


class OnnxSession:
    """Runs a checked guard graph.

    Args:
        model: bytes of the file (from `guard.artefact.files.read_onnx`) or its path.
        device: "auto" (CUDA where this onnxruntime has it), "cpu" or "cuda".
        threads: intra-op threads; None for ONNX Runtime's default (all cores), or as many as a CPU quota grants.
        spinning: whether idle threads spin; faster when alone on the machine, wasteful in a server with workers.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        RuntimeUnavailableError: CUDA was asked for and cannot be had (ONNX Runtime itself would fall back silently),
            or both builds of onnxruntime are installed.
    """

    name = "onnxruntime"

    def __init__(
        self, model: bytes | str | Path, *, device: str = "auto", threads: int | None = None, spinning: bool = True
    ) -> None:
        self.device = resolve_device(device)
        self._session = open_session(model, device=self.device, threads=threads, spinning=spinning)
        #: outputs beside the four, of a file that explains (`guard.explanation`)
        self.extra_outputs = tuple(o.name for o in self._session.get_outputs() if o.name not in _OUTPUTS)
        self._shape = tuple(self._session.get_inputs()[0].shape[1:])
        # an input with a default is listed among the overridable initializers
        self.optional_inputs = frozenset(i.name for i in self._session.get_overridable_initializers()) - {"threshold"}

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs:
        """See `guard.runtimes`."""
        check_images(images, self._shape)
        feed: dict[str, Any] = {"images": images, **optional}
        if threshold is not None:
            feed["threshold"] = np.array(threshold, np.float32)  # ONNX Runtime refuses numpy scalars
        return Outputs(*self._session.run(_OUTPUTS, feed))

    def extra(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The `extra_outputs` by name."""
        check_images(images, self._shape)
        names = list(self.extra_outputs)
        return dict(zip(names, self._session.run(names, {"images": images}), strict=True)) if names else {}


def open_session(model: bytes | str | Path, *, device: str, threads: int | None = None, spinning: bool = True) -> Any:
    """An `onnxruntime.InferenceSession` on "cpu" or "cuda"; arguments and errors as in `OnnxSession`."""
    ort = twin("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is None and cpu_quota() is not None:
        threads = available_cores()  # its own default would be one for each of the host's
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        providers.insert(0, "CUDAExecutionProvider")
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, options, providers=providers)
    got = session.get_providers()[0]
    if got != providers[0]:
        raise RuntimeUnavailableError(
            f"asked ONNX Runtime for {providers[0]}, got {got}: check the CUDA and cuDNN libraries "
            "(pip install 'ood-guard[gpu]'), or load with device='cpu'"
        )
    return session


def resolve_device(device: str) -> str:
    """ "auto" -> CUDA where this onnxruntime and this machine have it; "cuda" without support for it is an error."""
    has_cuda = "CUDAExecutionProvider" in twin("onnxruntime").get_available_providers()
    if device == "auto":
        return "cuda" if has_cuda and _cuda_driver() else "cpu"
    if device == "cuda" and not has_cuda:
        raise RuntimeUnavailableError(
            "this onnxruntime has no CUDA support; run: pip uninstall -y onnxruntime && pip install 'ood-guard[gpu]', "
            "or load with device='cpu'"
        )
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    return device


def _cuda_driver() -> bool:
    """Whether a CUDA driver is on this machine (the GPU build of onnxruntime lists CUDA without one, too)."""
    import ctypes

    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
