"""`guard.scan`, top to bottom."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact.files import write_atomic
from ..artefact.load import load, manifest_of
from ..artefact.places import check_unclaimed, writable_folder
from ..cores import available_cores
from ..data.classes import match_classes
from ..data.labels import printable
from ..data.loading import look_for_depth, opened_source
from ..data.progress import with_progress
from ..detector import Guard
from ..errors import ConfigError, DataError
from ..manifest import Manifest
from ..monitoring.table import SHARDS
from ..paths import path_given
from ..preprocess import MAX_PIXELS
from ..requests import ScanRequest
from ..runtimes.onnx_providers import resolve_device
from .cluster import Task, ray_package, root_of, scored_on_ray
from .cross_fit import NAME as CROSS_FITTED
from .cross_fit import check_cross_fit, cross_fitted
from .page import render, rows_shown
from .pictures import pictures
from .plan import CARD, Shard, alone, begin, card_of, shards_of
from .processes import Job, scored_apart
from .reading import Reading
from .result import ScanSummary
from .scoring import Scored, scored_here
from .shards import is_whole, pyarrow, write_shard
from .summary import summarise

log = logging.getLogger("ood_guard")

SUMMARY, PAGE = "summary.json", "report.html"
_WORTH_PROCESSES = 1024  # images; starting a process takes about half a second


def scan(request: ScanRequest) -> ScanSummary:
    """See `guard.scan`."""
    pyarrow()
    _check_ray(request)
    check_cross_fit(request)
    _check_apart(request.out, request.data)
    folder = writable_folder(request.out)
    check_unclaimed(folder, [CARD], [SHARDS, CROSS_FITTED.format("*", "*"), SUMMARY, PAGE])
    manifest = request.g.manifest if isinstance(request.g, Guard) else manifest_of(request.g)
    source = Reading(opened_source(request.data, request.labelled, None, all_classes=False))
    notes = [*(printable(note) for note in source.notes), *_own_labels(source, manifest, request.cross_fit)]
    for note in notes:
        log.warning("%s", note)
    look_for_depth(source, np.arange(len(source)))
    card = card_of(
        manifest,
        source,
        labelled=request.labelled,
        shard_size=request.shard_size,
        runtime=_runtime_name(request, manifest),
    )
    shards = shards_of(card)
    with alone(folder):
        begin(folder, card)
        absent = [shard for shard in shards if not is_whole(folder, shard)]
        if absent:
            _write(folder, absent, request, manifest, source)
        judged = cross_fitted(folder, request, source) if request.cross_fit else None
        if judged is not None and judged.note:
            notes.append(judged.note)
        summary, sample = summarise(folder, card, shards, manifest, seed=request.seed, notes=notes, cross_fitted=judged)
        summary = summary.model_copy(update={"made": len(absent)})
        shown = pictures(source, rows_shown(summary), MAX_PIXELS)
        write_atomic(folder / SUMMARY, summary.model_dump_json(indent=1).encode() + b"\n")
        write_atomic(folder / PAGE, render(summary, sample, shown, manifest.calibration).encode())
    return summary


def _check_apart(out: Path, data: Any) -> None:
    """Raises: ConfigError: `out` lies in the folder that is scanned, and would be a part of it the next time."""
    if not isinstance(data, (str, os.PathLike)):
        return
    root = os.path.realpath(data)
    if os.path.isdir(root) and Path(os.path.realpath(out)).is_relative_to(root):
        raise ConfigError(f"out={str(out)!r} lies in the data, {os.fspath(data)!r}; give a folder beside it")


def _own_labels(source: Reading, manifest: Manifest, folds: int | None) -> Iterator[str]:
    """Put the labels into the guard's order of classes; what the reader should know of them.

    Raises:
        DataError: classes that the guard does not have.
    """
    if source.labels is None:
        return
    try:
        source.labels, note = match_classes(
            source.labels, source.class_names, manifest.class_names, source.name, manifest.data_class_names
        )
    except DataError as error:
        raise DataError(f"{error}; a scan without labelled= needs no labels") from None
    if note:
        yield note
    if source.fingerprint() in {card.fingerprint for card in manifest.data if not card.given_as}:
        learned = "features, unless frozen, were" if folds else "classifier was"
        yield (
            f"{source.name} is the data this guard was made from: its {learned} trained on most of these labels, so "
            "fewer mislabelled and off-class images are found than there are."
        )


def _runtime_name(request: ScanRequest, manifest: Manifest) -> str:
    if isinstance(request.g, Guard):
        return request.g.runtime.name
    path = path_given(request.g)
    if path.suffix == ".onnx":
        return "onnxruntime" if request.runtime == "auto" else request.runtime
    return manifest.engine.flavour if manifest.engine else "torch"


def _write(folder: Path, absent: Sequence[Shard], request: ScanRequest, manifest: Manifest, source: Reading) -> None:
    """Score the absent shards; each is written as soon as it is complete."""
    count = sum(map(len, absent))
    groups = (rows for shard in absent for rows in shard.groups(request.batch_size))
    if request.ray is None:
        stream = _stream(request, manifest, source, groups, count)
    else:
        stream = scored_on_ray(request.ray, _task(request, manifest), source, absent, workers=request.workers)
    with closing(with_progress(stream, count, f"scanning {source.name}")) as scored:
        for shard in absent:
            parts = [next(scored) for _ in shard.groups(request.batch_size)]
            write_shard(folder, shard, parts, source, manifest.class_names)


def _stream(
    request: ScanRequest, manifest: Manifest, source: Reading, groups: Iterator[np.ndarray], count: int
) -> Generator[Scored, None, None]:
    """The verdicts on the groups, in order: in processes of their own where the guard is a file that a CPU runs."""
    workers, path = request.workers, _file_for_processes(request, manifest)
    if workers is None:
        workers = available_cores() if count >= _WORTH_PROCESSES else 0
    if path is not None and workers > 0 and not source.read_in_worker:
        job = Job(path, manifest.model_dump_json(), _runtime_name(request, manifest), MAX_PIXELS)
        return scored_apart(job, source, groups, source.labels, workers=workers)
    g = request.g
    if not isinstance(g, Guard):
        g = load(g, device=request.device, runtime=request.runtime)
    return scored_here(g, source, groups, source.labels, workers=workers, max_pixels=MAX_PIXELS)


def _check_ray(request: ScanRequest) -> None:
    """Before the work.

    Raises:
        MissingExtraError: ray is not installed.
        ConfigError: a guard that is not in a file, or another device than a CPU.
    """
    if request.ray is None:
        return
    ray_package()
    if _path_of(request) is None:
        raise ConfigError("ray= needs a guard that every node can open; export this one, or give its folder's path")
    if request.device not in ("auto", "cpu"):
        raise ConfigError(f"ray= scores on CPUs, got device={request.device!r}; omit one of the two")


def _path_of(request: ScanRequest) -> Path | None:
    return request.g.path if isinstance(request.g, Guard) else path_given(request.g)


def _task(request: ScanRequest, manifest: Manifest) -> Task:
    """What the nodes of a cluster are told."""
    path = _path_of(request)
    assert path is not None  # `_check_ray`
    job = Job(path.resolve(), manifest.model_dump_json(), _runtime_name(request, manifest), MAX_PIXELS)
    return Task(job, request.batch_size, root_of(request.data))


def _file_for_processes(request: ScanRequest, manifest: Manifest) -> Path | None:
    """The .onnx file to open in each process; None where the guard is scored here."""
    if sys.platform == "win32":  # no pipes of this kind
        return None
    if isinstance(request.g, Guard):
        path, device = request.g.path, request.g.runtime.device
    else:
        path = path_given(request.g)
        device = "cpu" if request.runtime == "openvino" else request.device
    if path is None or path.suffix != ".onnx" or not path.is_file():
        return None
    if manifest_of(path).weights_sha256 != manifest.weights_sha256:  # written again since it was loaded
        return None
    return path if device == "cpu" or resolve_device(device) == "cpu" else None
