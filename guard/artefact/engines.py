"""Open a TensorRT engine; build it again from the ONNX file beside it where it is not this machine's.

    guard.engine          built once, for one GPU and TensorRT version; guard.engine.json is its manifest
    guard.engine.onnx     the graph that it was built of, in the engine's precision; a guard of its own
    guard-<GPU>-<flavour>-<version>-<digest>.engine    built again for another machine, beside it or in the cache folder
    guard.engine.timing, .compiled            what a build timed (TensorRT), and compiled at a start (tensorrt_rtx)

What is built again has the calibration of `guard.engine.json`. An engine that is damaged is refused; of one that was
built again and is damaged since, another is built. The digest is of what an engine is made of: its graph but for the
thresholds, which are fed, and its batches. So a new calibration keeps it, and files of one name have each their own.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .._siblings import sibling
from ..errors import ArtefactDamagedError, ArtefactError, EngineMismatchError, MissingExtraError
from ..manifest import Manifest
from ..runtimes.gpu import Gpu, this_gpu
from .files import engine_manifest_path, engine_source_path, graph_bytes, read_onnx, read_pair, write_pair

if TYPE_CHECKING:
    from ..runtimes.tensorrt_engine import TensorRTEngine

log = logging.getLogger("ood_guard")


def open_engine(path: Path, cache: Path | None = None) -> tuple[Manifest, TensorRTEngine]:
    """The manifest and the running engine of an .engine file, or of another built of the ONNX file beside it.

    Raises:
        RuntimeUnavailableError: there is no GPU.
        EngineMismatchError: it fits neither this GPU nor this TensorRT, and its ONNX file is not there.
        ArtefactDamagedError: the engine, its manifest or its ONNX file was changed.
    """
    from ..runtimes.tensorrt_engine import TensorRTEngine

    engine, manifest = read_pair(path, engine_manifest_path(path))
    gpu = this_gpu()
    try:
        return manifest, TensorRTEngine(engine, manifest, _compiled(path, cache))
    except (EngineMismatchError, MissingExtraError) as error:
        why = str(error)
    source = engine_source_path(path)
    if not source.exists():
        raise EngineMismatchError(
            f"{path} cannot run here: {why}; {source.name}, of which it could be built again, is not beside it: "
            f"put it there, or run on this machine: guard export RUN {path}"
        )
    data, made = read_onnx(source)
    if manifest.engine is not None and manifest.engine.onnx_sha256 not in ("", made.weights_sha256):
        raise ArtefactDamagedError(f"{source} is not the file that {path.name} was built of; export the engine again")
    return _built_for(gpu, path, data, manifest, why, cache)


def engine_of(
    path: Path, data: bytes, manifest: Manifest, cache: Path | None = None
) -> tuple[Manifest, TensorRTEngine]:
    """The same for an ONNX file (its checked bytes): its engine for this machine, built where there is none yet."""
    return _built_for(this_gpu(), path, data, manifest, "there is none for this machine yet", cache)


def _built_for(
    gpu: Gpu, path: Path, data: bytes, manifest: Manifest, why: str, cache: Path | None
) -> tuple[Manifest, TensorRTEngine]:
    """The engine that was built for this machine, or a new one; beside `path`, or in the cache folder."""
    from ..runtimes.tensorrt_engine import TensorRTEngine

    try:
        builder = sibling("export.to_tensorrt")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed to build the engine again)", "train") from error
    trt = builder.installed_flavour()
    facts, graph = manifest.engine, graph_bytes(data)
    batches = {} if facts is None else {n: getattr(facts, n) for n in ("min_batch", "opt_batch", "max_batch")}
    made_of = hashlib.sha256(builder.engine_graph(graph) + repr(batches).encode()).hexdigest()
    machine = f"{path.stem}-{gpu.slug}-{trt.__name__}-{trt.__version__}"
    place = (path.parent if cache is None else cache) / f"{machine}-{made_of[:16]}.engine"
    if (kept := _kept(place)) is not None:
        engine, found = kept
        manifest = manifest.model_copy(update={"engine": found.engine})
        try:
            return manifest, TensorRTEngine(engine, manifest, _compiled(place, None))
        except EngineMismatchError as error:
            why = str(error)
    log.info("building %s of %s, which can take minutes: %s", place, path.name, why)
    timing = place.with_name(f"{machine}.engine.timing")
    engine, facts = builder.build_engine(graph, manifest, trt=trt, timing_cache=timing, **batches)
    manifest = manifest.model_copy(update={"engine": facts, "parity": None})
    _keep(place, engine, manifest.model_copy(update={"exemplars": None}))
    return manifest, TensorRTEngine(engine, manifest, _compiled(place, None))


def _kept(place: Path) -> tuple[bytes, Manifest] | None:
    """An engine that was built before; None where there is none, or it is damaged."""
    if not place.exists():
        return None
    try:
        return read_pair(place, engine_manifest_path(place))
    except ArtefactError as error:
        log.warning("%s; it is built again", error)
        return None


def _keep(place: Path, engine: bytes, manifest: Manifest) -> None:
    try:
        write_pair(place, engine_manifest_path(place), engine, manifest)
    except OSError as error:
        log.warning("%s cannot be kept (%s): it is built again at every start; give cache=", place, error)


def _compiled(path: Path, cache: Path | None) -> Path:
    return (path.parent if cache is None else cache) / f"{path.name}.compiled"
