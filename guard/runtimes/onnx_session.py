"""ONNX Runtime behind the `Runtime` protocol. Imports onnxruntime, never torch."""

from __future__ import annotations

import dataclasses
import logging
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..artefact.places import writable_folder
from ..errors import RuntimeUnavailableError
from ..twins import twin
from . import Outputs, check_images
from .onnx_binding import BoundRuns
from .onnx_optimised import OptimisedGraph
from .onnx_providers import TENSORRT, check_got, providers, resolve_device
from .onnx_settings import SessionSettings, session_options, session_settings

log = logging.getLogger("ood_guard")

_OUTPUTS = ["label", "probabilities", "ood_score", "is_ood"]


class OnnxSession:
    """Runs a checked guard graph.

    Args:
        model: bytes of the file (from `guard.artefact.files.read_onnx`) or its path.
        device: "auto", "cpu" or "cuda", by the rules of `onnx_providers`.
        runtime: "onnxruntime", or "onnxruntime-tensorrt" for its TensorRT provider.
        threads: intra-op threads; None for what `tuned_for` takes.
        tuned_for: "latency" or "throughput" (`onnx_settings`).
        cache: folder for the optimised graph, or for the TensorRT provider's engines.
        precision: the file's.
        integers: on a CPU, whether int8 kernels may be used (`int8_kernels`).
        bound: whether runs use bound memory (`onnx_binding`); None: on a GPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        RuntimeUnavailableError: a GPU or provider was asked for and cannot be had, both builds of onnxruntime are
            installed, or a bf16 file would run on the CPU.
    """

    def __init__(
        self,
        model: bytes | str | Path,
        *,
        device: str = "auto",
        runtime: str = "onnxruntime",
        threads: int | None = None,
        tuned_for: str = "latency",
        cache: Path | None = None,
        precision: str = "fp32",
        integers: bool = True,
        bound: bool | None = None,
    ) -> None:
        more: dict[str, Any] = {"tuned_for": tuned_for, "cache": cache, "precision": precision}
        self.name = runtime
        self._session, self.device = open_anywhere(
            model, device=device, runtime=runtime, threads=threads, integers=integers, **more
        )
        #: outputs beside the four, of a file that explains (`guard.explanation`)
        self.extra_outputs = tuple(o.name for o in self._session.get_outputs() if o.name not in _OUTPUTS)
        self._shape = tuple(self._session.get_inputs()[0].shape[1:])
        # an input with a default is listed among the overridable initializers
        self.optional_inputs = frozenset(i.name for i in self._session.get_overridable_initializers()) - {"threshold"}
        classes = {o.name: o.shape for o in self._session.get_outputs()}["probabilities"][1]
        self._bound = (self.device == "cuda" if bound is None else bound) and isinstance(classes, int)
        self._classes, self._here = classes, threading.local()  # bound memory serves one thread

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs:
        """See `guard.runtimes`."""
        check_images(images, self._shape)
        feed: dict[str, Any] = {"images": images, **optional}
        if threshold is not None:
            feed["threshold"] = np.array(threshold, np.float32)  # ONNX Runtime refuses numpy scalars
        if not self._bound:
            return Outputs(*self._session.run(_OUTPUTS, feed))
        if not hasattr(self._here, "runs"):
            self._here.runs = BoundRuns(self._session, twin("onnxruntime"), self.device, self._classes)
        return Outputs(*self._here.runs.run(_OUTPUTS, {name: np.ascontiguousarray(a) for name, a in feed.items()}))

    def extra(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The `extra_outputs` by name."""
        check_images(images, self._shape)
        names = list(self.extra_outputs)
        return dict(zip(names, self._session.run(names, {"images": images}), strict=True)) if names else {}


_BF16 = (
    "the file computes in bfloat16, which ONNX Runtime does on CUDA alone; load it with runtime='openvino', or export "
    "the guard in fp32, fp16 or int8 for the CPU"
)


def open_anywhere(
    model: bytes | str | Path, *, device: str, runtime: str = "onnxruntime", **more: Any
) -> tuple[Any, str]:
    """`open_session`, and the device: with "auto" the CPU where the GPU cannot be used, which is logged."""
    here = resolve_device(device, runtime)
    try:
        return open_session(model, device=here, runtime=runtime, **more), here
    except RuntimeUnavailableError as error:
        if device != "auto" or here == "cpu" or runtime == TENSORRT:
            raise
        log.warning("device auto: ONNX Runtime runs on the CPU, for the GPU cannot be used (%s)", error)
        return open_session(model, device="cpu", runtime=runtime, **more), "cpu"


def open_session(
    model: bytes | str | Path,
    *,
    device: str,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    tuned_for: str = "latency",
    cache: Path | None = None,
    precision: str = "fp32",
    integers: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` on "cpu" or "cuda"; arguments and errors as in `OnnxSession`."""
    if precision == "bf16" and device == "cpu":
        raise RuntimeUnavailableError(_BF16)
    ort, settings = twin("onnxruntime"), session_settings(tuned_for, threads)
    settings = dataclasses.replace(settings, integers=integers or device != "cpu")
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    engines = writable_folder(cache, "cache") if cache is not None and runtime == TENSORRT else None
    wanted = providers(runtime, device, precision=precision, tuned_for=tuned_for, cache=engines)
    if cache is not None and runtime != TENSORRT:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        return _through_cache(ort, data, settings, wanted, cache)
    source = model if isinstance(model, bytes) else str(model)
    return _session(ort, source, session_options(ort, settings), wanted)


def _session(ort: Any, source: bytes | str, options: Any, wanted: list[Any]) -> Any:
    session = ort.InferenceSession(source, options, providers=wanted)
    check_got(session, wanted)
    return session


def _through_cache(ort: Any, data: bytes, settings: SessionSettings, wanted: list[Any], cache: Path) -> Any:
    """A session on the optimised graph that is kept, or on the file's own, whose optimised graph is kept then."""
    name = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    kept = OptimisedGraph(cache, data, ort.__version__, name)
    graph = kept.read()
    if graph is not None:
        as_it_is = dataclasses.replace(settings, optimisation="none")
        return _session(ort, graph, session_options(ort, as_it_is), wanted)
    with TemporaryDirectory() as folder:
        draft, options = Path(folder) / "optimised.onnx", session_options(ort, settings)
        options.optimized_model_filepath = str(draft)
        session = _session(ort, data, options, wanted)
        kept.write(draft.read_bytes())
    return session
