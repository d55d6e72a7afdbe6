"""Where a guard's graph runs: ONNX Runtime, TensorRT or torch, behind one protocol.

    run(images, threshold, **optional) -> Outputs

`images` is uint8 (N, H, W, channels), C-contiguous, N >= 1. `threshold` None means the one baked into the artefact.
`optional` are values for those inputs that the graph has beside these two (`optional_inputs`): `class_offsets` and
`inverse_temperature`, see `guard.calibration.decision_rule`; each has a default in the artefact, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import ImageError


@dataclass(frozen=True, slots=True)
class Outputs:
    """The graph's outputs: label int64 (N,), probabilities float32 (N, C), ood_score float32 (N,), is_ood bool (N,)."""

    label: np.ndarray
    probabilities: np.ndarray
    ood_score: np.ndarray
    is_ood: np.ndarray


@runtime_checkable
class Runtime(Protocol):
    name: str  # "onnxruntime" | "onnxruntime-tensorrt" | "openvino" | "tensorrt" | "tensorrt_rtx" | "torch"
    device: str  # "cpu" | "cuda"

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs: ...


def optional_inputs(runtime: Runtime) -> frozenset[str]:
    """Names of the graph's inputs beside `images` and `threshold`; a runtime without such need not say so."""
    return getattr(runtime, "optional_inputs", frozenset())


def check_images(images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse a batch that the graph of input (N, *shape) would misread.

    Raises:
        ImageError: not uint8, or another shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape):
        raise ImageError(
            f"the graph takes uint8 (N, {', '.join(map(str, shape))}), got {images.dtype} {images.shape}; "
            "use guard.preprocess.to_input, or Guard.predict"
        )
