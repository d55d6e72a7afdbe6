"""TensorRT engines and ONNX Runtime's providers, where their packages were carried: built, run, compared with the CPU.

Every precision's file is exported once. The engine is that of `guard.load(path, runtime="tensorrt")`; its first load
builds it and the second reads it back. Flags are compared with those that ONNX Runtime gives to the float32 file on the
CPU; int8 is calibrated on the same noise, so that its flips say little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.precision.floats import in_half
from export.precision.integers import Quantiser
from export.to_onnx import onnx_bytes
from guard.artefact.files import write_onnx
from guard.artefact.load import load
from guard.detector import Guard
from guard.errors import GuardError
from guard.latency.interleave import interleave

from .part import Part, run
from .random_guard import images, random_guard

TITLE = "TensorRT and ONNX Runtime"
PRECISIONS = ("fp32", "fp16", "int8")
BATCHES = (1, 8, 64, 256)
ON_A_GPU = (("tensorrt", "cuda"), ("onnxruntime", "cuda"), ("onnxruntime-tensorrt", "cuda"))


def measure(part: Part) -> None:
    """Each precision in each runtime."""
    backbone, pixels = ("wrn16_2", 16) if part.toy else ("resnet18", 32)
    g, some = random_guard(backbone, pixels), images(16 if part.toy else 512, pixels)
    with tempfile.TemporaryDirectory() as name:
        files = _files(part, g, some, Path(name))
        ours = load(files["fp32"], device="cpu").predict_batches([some])
        for runtime, device in (("onnxruntime", "cpu"),) if part.toy else ON_A_GPU:
            for precision, path in files.items():
                what = f"{precision} in {runtime}"
                part.attempt(what, partial(_one, part, path, precision, runtime, device, some, ours))
        if part.toy:
            _built_alone(part, files, g)


def _files(part: Part, g: Guard, some: np.ndarray, folder: Path) -> dict[str, Path]:
    """precision -> its file."""
    exact = onnx_bytes(g.module, g.manifest)
    made: dict[str, Callable[[], bytes]] = {
        "fp32": lambda: exact,
        "fp16": lambda: in_half(exact, "fp16"),
        "int8": lambda: Quantiser(exact, [some[:64]], "tensorrt").quantised(),
    }
    files: dict[str, Path] = {}

    def write(precision: str) -> None:
        path = folder / f"{precision}.onnx"
        write_onnx(path, made[precision](), g.manifest.model_copy(update={"precision": precision}))
        files[precision] = path

    for precision in PRECISIONS:
        part.attempt(f"the file in {precision}", partial(write, precision))
    return files


def _one(part: Part, path: Path, precision: str, runtime: str, device: str, some: np.ndarray, ours: Any) -> None:
    began = time.perf_counter()
    g = load(path, runtime=runtime, device=device, cache=path.parent)
    g.predict_batches([some[:1]])
    first = time.perf_counter() - began
    began = time.perf_counter()
    g = load(path, runtime=runtime, device=device, cache=path.parent, warm_up=(1, len(some)))
    second = time.perf_counter() - began
    found = g.predict_batches([some])
    keys = {"runtime": g.runtime.name, "device": g.runtime.device, "precision": precision}
    flips = {
        "flag flips": int((found.is_ood != ours.is_ood).sum()),
        "label changes": int((found.label != ours.label).sum()),
        "score difference": float(np.abs(found.ood_score - ours.ood_score).max()),
    }
    for batch in (1, 4) if part.toy else BATCHES:
        pixels = images(batch, some.shape[1])
        rounds, round_s = (2, 1e-3) if part.toy else (9, 0.03)
        timing = interleave({"run": partial(g.runtime.run, pixels)}, rounds=rounds, round_s=round_s)["run"]
        speed = {"ms": 1e3 * timing.seconds, "p99, ms": 1e3 * timing.p99, "images/s": batch / timing.seconds}
        part.row(**keys, batch=batch, **speed, **flips, **{"first load, s": first, "second load, s": second})


def _built_alone(part: Part, files: dict[str, Path], g: Guard) -> None:
    """Without a GPU tensorrt_rtx builds, and nothing runs."""
    from export.to_tensorrt import build_engine, installed_flavour
    from guard.artefact.files import graph_bytes, read_onnx

    try:
        trt = installed_flavour()
    except GuardError as error:
        part.skip("building engines", error)
        return

    def build(precision: str, path: Path) -> None:
        began = time.perf_counter()
        engine, facts = build_engine(graph_bytes(read_onnx(path)[0]), g.manifest, max_batch=4, trt=trt)
        seconds = {"first load, s": time.perf_counter() - began}
        part.row(
            runtime=f"{facts.flavour}, built only", device="none", precision=precision, MB=len(engine) / 1e6, **seconds
        )

    for precision, path in files.items():
        part.attempt(f"building {precision}", partial(build, precision, path))


if __name__ == "__main__":
    run("engines", TITLE, measure)
