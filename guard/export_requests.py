"""What `guard.load`, `export`, `verify` and `bench` were asked for; see requests.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from .record import changed, option
from .requests import Request

ExportPrecision = Literal["fp32", "fp16", "bf16", "int8"]
Batch = Annotated[int, Field(ge=1)]
_RUNTIMES = "onnxruntime (which auto is), onnxruntime-tensorrt, tensorrt, openvino"


class LoadRequest(Request):
    """The arguments of `guard.load`."""

    function: ClassVar[str] = "guard.load"
    path: Path = option(..., "An .onnx file, an .engine file or a run folder.")
    device: str = option("auto", "auto, cpu or cuda.")
    runtime: str = option("auto", f"What runs an .onnx file: {_RUNTIMES}.")
    threads: int | None = option(None, "Threads of one run; default what tuned_for takes.", ge=1)
    tuned_for: Literal["latency", "throughput"] = option(
        "latency", "latency or throughput.", rule="must be latency or throughput"
    )
    warm_up: tuple[Batch, ...] = option(
        (), "Batch sizes to run once.", rule="must be batch sizes of at least 1, like (1, 32)"
    )
    cache: Path | None = option(None, "Folder for what the runtime makes of the file.")

    @field_validator("warm_up", mode="before")
    @classmethod
    def _one_number(cls, given: Any) -> Any:
        return (given,) if isinstance(given, int) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _something_reads_it(self) -> LoadRequest:
        onnx = self.path.suffix == ".onnx"
        read = {
            "threads": onnx and self.runtime != "tensorrt",
            "tuned_for": onnx and self.runtime != "tensorrt",
            "cache": (onnx and self.runtime != "openvino") or self.path.suffix == ".engine",
        }
        for name in changed(self, [name for name, has_a_reader in read.items() if not has_a_reader]):
            what = f"runtime={self.runtime!r}" if onnx else f"{self.path}"
            raise ValueError(f"{name}={getattr(self, name)!r} is not read with {what}; drop it")
        return self


class ExportRequest(Request):
    """The arguments of `guard.export`."""

    function: ClassVar[str] = "guard.export"
    g: Any = option(..., "A guard, or its run folder.")
    path: Path = option(..., "Ends in .onnx or .engine (TensorRT); the model's folder for triton.")
    format: Literal["auto", "onnx", "engine", "triton"] = option(
        "auto", "onnx, engine, triton (a model of a Triton repository), or auto: as the path ends."
    )
    precision: ExportPrecision = option(
        "fp32",
        "Of the network's body: fp32, fp16, bf16 or int8; what is behind it stays in float32.",
        rule="must be one of fp32, fp16, bf16, int8",
    )
    target: Literal["auto", "cpu", "tensorrt"] = option(
        "auto",
        "Whose int8: cpu, tensorrt, or auto: tensorrt for an engine, else cpu.",
        rule="must be one of auto, cpu, tensorrt",
    )
    data: Any = option(
        None,
        "In-distribution images to verify on, and for a precision below fp32 to calibrate on; default the calibration "
        "images, else (fp32) random ones.",
    )
    ood: Any = option(None, "OOD images whose AUROC may not fall; default the in-distribution ones in pieces.")
    max_flag_flips: int | None = option(
        None, "Images that may change label or flag; default 0 in fp32, any number in a lower precision.", ge=0
    )
    max_accuracy_loss: float = option(0.005, "Accuracy that a precision below fp32 may lose.", ge=0, le=1)
    max_auroc_loss: float = option(0.005, "AUROC that a precision below fp32 may lose.", ge=0, le=1)
    max_batch: int = option(256, "Largest batch of a TensorRT engine, or that Triton makes.", ge=1)
    min_batch: int = option(1, "Smallest batch of a TensorRT engine; smaller ones are filled up.", ge=1)
    opt_batch: int | None = option(None, "Batch that a TensorRT engine is tuned for; default 8.", ge=1)
    exemplars: int = option(
        0,
        "Ordinary images per class that the file holds, small, for the page to show beside a flagged one.",
        ge=0,
        le=20,
    )


class VerifyRequest(Request):
    """The arguments of `guard.verify`."""

    function: ClassVar[str] = "guard.verify"
    path: Any = option(..., "The exported guard, or the address of a service.")
    against: Any = option(..., "Its source: a guard, a run folder or another export.")
    data: Any = option(..., "Images in any form that guard train takes.")
    batch_size: int = option(64, "Images per run.", ge=1, rule="must be at least 1")
    max_flag_flips: int | None = option(
        None,
        "Images that may change label or flag; default none between files of float32, 1 % with fp16, 2 % with bf16, "
        "5 % with int8.",
        ge=0,
    )
    max_accuracy_loss: float = option(
        0.005, "Accuracy that the exported guard may lose, with labelled data.", ge=0, le=1
    )
    runtime: str = option("auto", f"What runs the exported guard: {_RUNTIMES}.")
    device: str = option("auto", "Where the exported guard runs: auto, cpu or cuda.")
    against_runtime: str = option("auto", "What runs its source, where that is an .onnx file.")
    against_device: str = option("auto", "Where its source runs: auto, cpu or cuda.")
    token: str | None = option(None, "GUARD_TOKEN of the service, where it has one.")


class BenchRequest(Request):
    """The arguments of `guard.bench`."""

    function: ClassVar[str] = "guard.bench"
    artefacts: tuple[Path, ...] = option(
        ..., "Exported guards of one classifier, and run folders.", min_length=1, rule="must be one path or several"
    )
    batch_sizes: tuple[Batch, ...] = option(
        (1, 8, 64), "Images per run.", min_length=1, rule="must be numbers of at least 1, like 1,8,64"
    )
    runtime: tuple[Literal["auto", "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "openvino"], ...] = option(
        ("auto",),
        f"What runs .onnx files: {_RUNTIMES}; one or several.",
        min_length=1,
        rule="must be of auto, onnxruntime, onnxruntime-tensorrt, tensorrt, openvino",
    )
    device: str = option("auto", "auto, cpu or cuda.")
    threads: int | None = option(None, "Intra-op threads; default the runtime's own choice.", ge=1)
    rounds: int = option(15, "Rounds in which all take turns; each gives one ratio.", ge=1)
    memory: bool = option(True, "Measure memory too, each in a process of its own.")
    out: Path | None = option(None, "Where to write a page (.html), and its numbers beside it (.json).")

    @field_validator("artefacts", "runtime", mode="before")
    @classmethod
    def _one_alone(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | os.PathLike) else given

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _one_number(cls, given: Any) -> Any:
        return (given,) if isinstance(given, int) and not isinstance(given, bool) else given
