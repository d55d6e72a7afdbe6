"""A wrong artefact, provider, GPU, precision, batch size or setting: one sentence that names it and what to do instead.

The machine is played: ONNX Runtime has the CPU alone, and TensorRT a GPU or none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import guard
from guard.artefact.files import engine_manifest_path, engine_source_path, write_onnx
from guard.errors import GuardError
from guard.runtimes import onnx_providers
from tests.fake_tensorrt import Cuda, install, tensorrt
from tests.serving.conftest import colour_graph, colour_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


class World:
    """Files, and the machine that they are on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.onnx = folder / "guard.onnx"
        write_onnx(self.onnx, colour_graph(), colour_manifest())
        only_cpu = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
        monkeypatch.setattr(onnx_providers, "twin", lambda _: only_cpu)
        self.gpu("NVIDIA Fake 9000")

    def gpu(self, name: str | None) -> None:
        """Go to a machine with that GPU, or without one."""
        cuda = Cuda(name or "", count=int(name is not None))
        install(self._monkeypatch, cuda, tensorrt("10.9.0.34", cuda))

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def precise(self, precision: str) -> Path:
        """A file that says to be in that precision."""
        path = self.folder / f"{precision}.onnx"
        write_onnx(path, colour_graph(), colour_manifest().model_copy(update={"precision": precision}))
        return path

    def engine(self, *, elsewhere: str | None = "", without: str = "", changed: str = "") -> Path:
        """An engine; then on to a machine with another GPU or none, without one of its files, or one damaged."""
        path = guard.export(self.onnx, self.folder / "guard.engine", max_batch=4)
        places = {"onnx": engine_source_path(path), "json": engine_manifest_path(path), "engine": path}
        if without:
            places[without].unlink()
        if changed.endswith("cut"):
            file = places[changed.split()[0]]
            file.write_bytes(file.read_bytes()[:-20])
        elif changed:
            content = bytearray(places[changed].read_bytes())
            content[len(content) // 2] ^= 4
            places[changed].write_bytes(bytes(content))
        if elsewhere != "":
            self.gpu(elsewhere)
        return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def edited(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    return bytes(content)


Load = guard.load

WRONG: dict[str, tuple[Callable[[World], Any], str]] = {
    # ----------------------------------------------------------------------------------------------- the artefact
    "no file": (lambda w: Load(w.folder / "gard.onnx"), r"no such guard: .*gard\.onnx; accepted: a \.onnx file"),
    "another kind": (lambda w: Load(w.file("guard.pt", b"x")), r"guard\.pt is not a guard: accepted are a \.onnx file"),
    "an ONNX model of others": (
        lambda w: Load(w.file("resnet.onnx", colour_graph())),
        r"resnet\.onnx is an ONNX model, but not one made by ood-guard .*guard\.export",
    ),
    "a file cut short": (
        lambda w: Load(w.file("short.onnx", w.onnx.read_bytes()[:200])),
        r"short\.onnx is cut short: .*200 bytes; copy or export it again",
    ),
    "an edited file": (
        lambda w: Load(w.file("edited.onnx", edited(w.onnx))),
        r"edited\.onnx .*(SHA-256 differs|changed).*; export it again|edited\.onnx is not an ONNX file",
    ),
    "an engine cut short": (
        lambda w: Load(w.engine(changed="engine cut")),
        r"guard\.engine was changed or cut short .*SHA-256 differs from guard\.engine\.json.*write the guard again",
    ),
    "an edited engine": (lambda w: Load(w.engine(changed="engine")), r"guard\.engine was changed or cut short"),
    "an edited manifest": (
        lambda w: Load(w.engine(changed="json")),
        r"guard\.engine\.json (was changed|is not a mani)",
    ),
    "an engine alone": (
        lambda w: Load(w.engine(without="json")),
        r"guard\.engine\.json, the manifest of .*guard\.engine, is not beside it; copy both files",
    ),
    "an engine as a guard to export": (
        lambda w: guard.export(w.engine(), w.folder / "again.onnx"),
        r"this guard runs on tensorrt and has no torch module; load its run folder instead",
    ),
    # ----------------------------------------------------------------------------------------------- the provider
    "no such runtime": (
        lambda w: Load(w.onnx, runtime="tensort"),
        r"runtime must be one of auto, onnxruntime, onnxruntime-tensorrt, tensorrt, openvino, got 'tensort'",
    ),
    "a provider that is not there": (
        lambda w: Load(w.onnx, runtime="onnxruntime-tensorrt"),
        r"no TensorRT provider \(it has CPUExecutionProvider\); run: pip .*or load with runtime='onnxruntime'",
    ),
    "a runtime for an engine": (
        lambda w: Load(w.engine(), runtime="openvino"),
        r"runtime='openvino' runs \.onnx files, got .*guard\.engine; export the guard, or use runtime='auto'",
    ),
    "verify with no such runtime": (
        lambda w: guard.verify(w.onnx, against=w.onnx, data=IMAGES, against_runtime="ort"),
        r"runtime must be one of .*, got 'ort'",
    ),
    "bench with no such runtime": (
        lambda w: guard.bench(w.onnx, runtime="ort"),
        r"runtime must be of auto, onnxruntime, onnxruntime-tensorrt, tensorrt, openvino",
    ),
    # ------------------------------------------------------------------------------------------------------ the GPU
    "a GPU without support for it": (
        lambda w: Load(w.onnx, device="cuda"),
        r"this onnxruntime has no CUDA support; run: pip .*, or load with device='cpu'",
    ),
    "no such device": (lambda w: Load(w.onnx, device="gpu"), r"device must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    "no such device for an engine": (lambda w: Load(w.engine(), device="gpu"), r"device must be .*, got 'gpu'"),
    "an engine on the CPU": (
        lambda w: Load(w.engine(), device="cpu"),
        r"guard\.engine is a TensorRT engine, which runs on CUDA only; load the \.onnx file for the CPU",
    ),
    "TensorRT on the CPU": (
        lambda w: Load(w.onnx, runtime="tensorrt", device="cpu"),
        r"guard\.onnx was asked to run in TensorRT, which runs on CUDA only",
    ),
    "an engine without a GPU": (
        lambda w: Load(w.engine(elsewhere=None)),
        r"a TensorRT engine runs on a CUDA GPU and this machine shows none; load the \.onnx file instead",
    ),
    "TensorRT without a GPU": (
        lambda w: (w.gpu(None), Load(w.onnx, runtime="tensorrt")),
        r"this machine shows none; load the \.onnx file instead",
    ),
    "an engine of another GPU": (
        lambda w: Load(w.engine(elsewhere="NVIDIA T4", without="onnx")),
        r"built for NVIDIA Fake 9000, and this GPU is NVIDIA T4 .*guard\.engine\.onnx.* run on this machine: guard ex",
    ),
    "OpenVINO on a GPU": (
        lambda w: Load(w.onnx, runtime="openvino", device="cuda"),
        r"runtime='openvino' runs on the CPU, got device='cuda'; use device='cpu'",
    ),
    # ------------------------------------------------------------------------------------------------ the precision
    "no such precision": (
        lambda w: guard.export(w.onnx, w.folder / "g.onnx", precision="fp8"),
        r"precision must be one of fp32, fp16, bf16, int8, got 'fp8'",
    ),
    "bf16 on the CPU": (
        lambda w: Load(w.precise("bf16")),
        r"computes in bfloat16, which ONNX Runtime does on CUDA alone; load it with runtime='openvino', or export",
    ),
    "a lower precision of a lower one": (
        lambda w: guard.export(w.precise("int8"), w.folder / "g.engine", precision="fp16"),
        r"the guard is in int8 already; give the float32 one that it was made of",
    ),
    "int8 without images": (
        lambda w: guard.export(w.onnx, w.folder / "g.engine", precision="int8"),
        r"int8.*in-distribution.*data=|in-distribution.*data=.*int8",
    ),
    "no such target": (
        lambda w: guard.export(w.onnx, w.folder / "g.onnx", precision="int8", target="gpu"),
        r"target must be one of auto, cpu, tensorrt, got 'gpu'",
    ),
    # ----------------------------------------------------------------------------------------------- the batch size
    "an empty warm-up": (lambda w: Load(w.onnx, warm_up=(1, 0)), r"warm_up must be batch sizes of at least 1.*got 0"),
    "a warm-up of words": (lambda w: Load(w.onnx, warm_up="all"), r"warm_up must be batch sizes of at least 1"),
    "no batch in predict": (
        lambda w: Load(w.onnx, device="cpu").predict(IMAGES, batch_size=0),
        r"batch_size must be at least 1, got 0",
    ),
    "no batch in verify": (
        lambda w: guard.verify(w.onnx, against=w.onnx, data=IMAGES, batch_size=0),
        r"batch_size must be at least 1, got 0",
    ),
    "no batch in bench": (
        lambda w: guard.bench(w.onnx, batch_sizes=(8, 0)),
        r"batch_sizes must be numbers of at least 1, like 1,8,64, got 0",
    ),
    "an engine without a batch": (
        lambda w: guard.export(w.onnx, w.folder / "g.engine", max_batch=0),
        r"max_batch must be at least 1, got 0|max_batch.*greater than or equal to 1",
    ),
    "batches out of order": (
        lambda w: guard.export(w.onnx, w.folder / "g.engine", min_batch=8, max_batch=4),
        r"1 <= min_batch <= opt_batch <= max_batch, got 8, 4 and 4; raise max_batch, or lower the others",
    ),
    "batches of what is no engine": (
        lambda w: guard.export(w.onnx, w.folder / "g.onnx", opt_batch=4),
        r"opt_batch= is an engine's, and 'g\.onnx' is none; drop it, or end the path in \.engine",
    ),
    "images of another size": (
        lambda w: Load(w.onnx, device="cpu").runtime.run(np.zeros((1, 9, 9, 3), np.uint8)),
        r"takes uint8 \(N, 8, 8, 3\), got uint8 \(1, 9, 9, 3\); use guard\.preprocess\.to_input, or Guard\.predict",
    ),
    # ------------------------------------------------------------------------------------------------- the settings
    "no such purpose": (
        lambda w: Load(w.onnx, tuned_for="speed"),
        r"tuned_for must be latency or throughput, got 'speed'",
    ),
    "no thread": (lambda w: Load(w.onnx, threads=0), r"threads.*0"),
    "a purpose that nothing reads": (
        lambda w: Load(w.engine(), tuned_for="throughput"),
        r"tuned_for='throughput' is not read with .*guard\.engine; drop it",
    ),
    "threads that nothing reads": (
        lambda w: Load(w.onnx, runtime="tensorrt", threads=2),
        r"threads=2 is not read with runtime='tensorrt'; drop it",
    ),
    "a cache that nothing reads": (
        lambda w: Load(w.onnx, runtime="openvino", cache=w.folder),
        r"cache=.* is not read with runtime='openvino'; drop it",
    ),
    "a cache that is a file": (
        lambda w: Load(w.onnx, device="cpu", cache=w.onnx),
        r"cache=.*guard\.onnx' is a file; give a folder",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_says_what_is_wrong(name: str, world: World) -> None:
    call, words = WRONG[name]
    with pytest.raises(GuardError, match=words) as caught:
        call(world)
    assert "\n" not in str(caught.value)
