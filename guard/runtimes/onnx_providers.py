"""Which of ONNX Runtime's execution providers runs a guard, by explicit rules.

    runtime=               device=   provider        where it cannot be had
    onnxruntime            cpu       CPU             -
    onnxruntime            cuda      CUDA            an error
    onnxruntime            auto      CUDA, else CPU  the CPU, which is logged where the machine seems to have a GPU
    onnxruntime-tensorrt   cuda      TensorRT        an error
    onnxruntime-tensorrt   auto      TensorRT        an error: who names a provider gets it

ONNX Runtime itself falls back without a word. TF32 is off: float32 means float32, as in `guard.verify`'s budget.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RuntimeUnavailableError
from ..twins import twin

log = logging.getLogger("ood_guard")

TENSORRT = "onnxruntime-tensorrt"
RUNTIMES = ("onnxruntime", TENSORRT)
CPU, CUDA, TRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_INSTALL = "run: pip uninstall -y onnxruntime && pip install 'ood-guard[gpu]'"


def resolve_device(device: str, runtime: str = "onnxruntime") -> str:
    """ "cpu" or "cuda": what the rules above say before a session is opened.

    Raises:
        ConfigError: another device or runtime, or the TensorRT provider on a CPU.
        RuntimeUnavailableError: this onnxruntime lacks the provider.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    available = twin("onnxruntime").get_available_providers()
    if runtime == TENSORRT:
        return _tensorrt(device, available)
    if runtime != "onnxruntime":
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if device == "cuda" and CUDA not in available:
        raise RuntimeUnavailableError(f"this onnxruntime has no CUDA support; {_INSTALL}, or load with device='cpu'")
    if device != "auto":
        return device
    driver = cuda_driver()
    if CUDA in available and driver:
        return "cuda"
    if CUDA in available:
        log.info("device auto: no CUDA driver on this machine, so ONNX Runtime runs on the CPU")
    elif driver:
        log.info(
            "device auto: this onnxruntime has no CUDA support, so it runs on the CPU; to use the GPU %s", _INSTALL
        )
    return "cpu"


def _tensorrt(device: str, available: list[str]) -> str:
    if device == "cpu":
        raise ConfigError(f"runtime={TENSORRT!r} runs on a GPU, got device='cpu'; use runtime='onnxruntime'")
    if TRT not in available:
        raise RuntimeUnavailableError(
            f"this onnxruntime has no TensorRT provider (it has {', '.join(available)}); {_INSTALL} and TensorRT 10, "
            "or load with runtime='onnxruntime'"
        )
    return "cuda"


def providers(
    runtime: str, device: str, *, precision: str = "fp32", tuned_for: str = "latency", cache: Path | None = None
) -> list[Any]:
    """ONNX Runtime's `providers=`, the one that was asked for first: names, or (name, options).

    Args:
        device: "cpu" or "cuda" (`resolve_device`).
        precision: the file's; the TensorRT provider computes in less than float32 only where it is told that it may.
        cache: folder for the TensorRT provider's engines and timings; None: they are built at every start.
    """
    if device == "cpu":
        return [CPU]
    # the exhaustive search for the fastest convolution is made again for every batch size
    search = "EXHAUSTIVE" if tuned_for == "latency" else "HEURISTIC"
    cuda = (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": search})
    if runtime != TENSORRT:
        return [cuda, CPU]
    options = {f"trt_{precision}_enable": "1"} if precision != "fp32" else {}
    if cache is not None:
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
        options |= kept | {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache)}
    return [(TRT, options), cuda, CPU]


def check_got(session: Any, asked: list[Any]) -> None:
    """Raises: RuntimeUnavailableError: ONNX Runtime took another provider than the one asked for first."""
    wanted = asked[0] if isinstance(asked[0], str) else asked[0][0]
    got = session.get_providers()[0]
    if got == wanted:
        return
    libraries = "CUDA and cuDNN" if wanted == CUDA else "TensorRT 10, CUDA and cuDNN"
    instead = "device='cpu'" if wanted == CUDA else "runtime='onnxruntime'"
    raise RuntimeUnavailableError(
        f"asked ONNX Runtime for {wanted}, got {got}: check the {libraries} libraries "
        f"(pip install 'ood-guard[gpu]'), or load with {instead}"
    )


def cuda_driver() -> bool:
    """Whether a CUDA driver is on this machine (the GPU build of onnxruntime lists CUDA without one, too)."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
