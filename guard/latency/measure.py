"""Exported guards and the bare classifier take turns in short blocks; ratios are of the same round."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..artefact.load import load, manifest_of
from ..artefact.places import report_file
from ..errors import ConfigError, ExportError, RuntimeUnavailableError
from ..export_requests import BenchRequest
from ..manifest import Preprocess
from .interleave import Timing, interleave
from .machine import machine
from .memory import memory_mib
from .page import write_page
from .result import BARE, Latency, LatencyRow

log = logging.getLogger("ood_guard")

ROUND_S, BLOCK_S = 0.05, 0.005  # seconds of a contender's turns in a round, and of one turn


@dataclass(frozen=True)
class Contender:
    """What is timed: `run` takes uint8 images (n, H, W, channels)."""

    name: str
    runtime: str
    device: str
    precision: str
    run: Callable[[np.ndarray], object]
    largest: int | None = None
    memory_mib: float | None = None


def bench(request: BenchRequest) -> Latency:
    """See `guard.bench`."""
    if request.out is not None:
        report_file(request.out)
    paths = [Path(path) for path in request.artefacts]
    manifests = [manifest_of(path) for path in paths]
    prepared = {manifest.preprocess for manifest in manifests}
    if len(prepared) > 1:
        raise ConfigError("the guards take images of different sizes; compare those of one classifier")
    _check_memory(max(request.batch_sizes), manifests[0].preprocess)
    contenders = _largest_first([*_bare(paths[0], request), *_guards(paths, request)])
    _check_sizes(request.batch_sizes, contenders[0])
    rows: list[LatencyRow] = []
    for batch in request.batch_sizes:
        able = [one for one in contenders if one.largest is None or batch <= one.largest]
        rows += _timed(able, _images(batch, manifests[0].preprocess), request.rounds)
    found = Latency(
        rows=tuple(rows),
        compared_with=contenders[0].name,
        threads=request.threads,
        rounds=request.rounds,
        machine=machine(),
    )
    if request.out is not None:
        write_page(found, request.out)
    return found


def _largest_first(contenders: list[Contender]) -> list[Contender]:
    """What the ratios are over takes every batch that another takes."""
    first = max(contenders, key=lambda one: math.inf if one.largest is None else one.largest)
    if contenders[0].largest is None or contenders[0].largest == first.largest:
        return contenders
    return [first, *(one for one in contenders if one is not first)]


def _check_sizes(sizes: Sequence[int], first: Contender) -> None:
    """Raises: ConfigError: a batch that no contender takes."""
    above = [size for size in sizes if first.largest is not None and size > first.largest]
    if above:
        raise ConfigError(
            f"batch size {above[0]} is above {first.largest}, the largest that {first.name} was built for; drop it, or "
            "build the engine with a larger max_batch"
        )


def _check_memory(batch: int, p: Preprocess) -> None:
    """Raises: ConfigError: there is no memory for the images of the largest batch."""
    try:
        np.empty((batch, p.height, p.width, p.channels), np.uint8)
    except (MemoryError, ValueError):  # the latter where no array can be so large
        size = batch * p.height * p.width * p.channels / 1e9
        raise ConfigError(
            f"a batch of {batch} images has {size:.4g} GB, more than there is memory; give smaller batch_sizes"
        ) from None


def _guards(paths: Sequence[Path], request: BenchRequest) -> Iterator[Contender]:
    """Every file in every runtime that runs it."""
    for path in paths:
        for runtime in request.runtime if path.suffix == ".onnx" else ("auto",):
            g = load(path, device=request.device, runtime=runtime, threads=request.threads)
            memory = None
            if request.memory:
                largest = max(request.batch_sizes)
                memory = memory_mib(
                    path, runtime=runtime, device=request.device, threads=request.threads, batch=largest
                )
            engine = g.manifest.engine
            yield Contender(
                path.name,
                g.runtime.name,
                g.runtime.device,
                g.manifest.precision,
                g.runtime.run,
                engine.max_batch if engine else None,
                memory,
            )


def _bare(path: Path, request: BenchRequest) -> Iterator[Contender]:
    """The first file's classifier in ONNX Runtime, where it can be cut out."""
    from .bare import bare_run

    if path.suffix != ".onnx":
        log.info("%s is no .onnx file: times are compared with its own, not with a bare classifier's", path.name)
        return
    try:
        run, precision, device = bare_run(path, request.device, request.threads)
    except ModuleNotFoundError as error:
        log.warning("%s is not installed: no bare classifier is timed beside; pip install onnx", error.name)
        return
    except (ExportError, RuntimeUnavailableError) as error:
        log.warning("no bare classifier is timed beside: %s", error)
        return
    yield Contender(BARE, "onnxruntime", device, precision, run)


def _timed(contenders: Sequence[Contender], images: np.ndarray, rounds: int) -> Iterator[LatencyRow]:
    keys = {f"{i} {one.name}": one for i, one in enumerate(contenders)}
    calls: dict[str, Callable[[], object]] = {key: partial(one.run, images) for key, one in keys.items()}
    timings = interleave(calls, rounds=rounds, round_s=ROUND_S, block_s=BLOCK_S)
    for key, one in keys.items():
        yield _row(one, len(images), timings[key])


def _row(one: Contender, batch: int, timing: Timing) -> LatencyRow:
    return LatencyRow(
        contender=one.name,
        runtime=one.runtime,
        device=one.device,
        precision=one.precision,
        batch=batch,
        p50_ms=1e3 * timing.seconds,
        p99_ms=1e3 * timing.p99,
        images_per_second=batch / timing.seconds,
        ratio=timing.ratio,
        ratio_low=timing.low,
        ratio_high=timing.high,
        memory_mib=one.memory_mib,
    )


def _images(batch: int, p: Preprocess) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, p.height, p.width, p.channels), dtype=np.uint8)
