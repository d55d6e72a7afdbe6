"""The bare classifier of an exported guard, ready to run: what a guard's time is compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._siblings import sibling
from ..artefact.files import graph_bytes, read_onnx
from ..runtimes.int8_kernels import exact_in_int8
from ..runtimes.onnx_session import open_anywhere


def bare_run(path: Path, device: str, threads: int | None) -> tuple[Callable[[np.ndarray], Any], str, str]:
    """The file's classifier alone in ONNX Runtime, its precision, and "cpu" or "cuda", which is where it runs. It takes
    uint8 images (N, H, W, channels).

    They are prepared at their first run and then kept by their number: what a bare classifier takes is prepared.

    Raises:
        ExportError: it cannot be cut out. ModuleNotFoundError: onnx, which cuts, is not installed.
        RuntimeUnavailableError: ONNX Runtime cannot run it on that device.
    """
    data, manifest = read_onnx(path)
    graph, name, dtype = sibling("export.bare").bare_classifier(graph_bytes(data))
    session, place = open_anywhere(
        graph, device=device, threads=threads, precision=manifest.precision, integers=exact_in_int8(manifest)
    )
    prepared: dict[int, np.ndarray] = {}

    def run(images: np.ndarray) -> Any:
        if len(images) not in prepared:
            prepared[len(images)] = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype) / dtype.type(255)
        return session.run(None, {name: prepared[len(images)]})

    return run, manifest.precision, place
