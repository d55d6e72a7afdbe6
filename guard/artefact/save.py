"""Write a guard again whose calibration changed, in the format that it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from .._siblings import sibling
from ..calibration.decision_rule import Decision
from ..errors import ArtefactDamagedError, ConfigError, MissingExtraError
from ..manifest import Manifest
from ..runtimes import Runtime
from .files import (
    engine_manifest_path,
    engine_source_path,
    graph_bytes,
    read_onnx,
    read_pair,
    write_atomic,
    write_onnx,
    write_pair,
)
from .onnx_defaults import graph_inputs, set_defaults
from .run_folder import save_pretrained

if TYPE_CHECKING:
    from ..detector import Guard


FILES = (".onnx", ".engine")  # all else is the name of a run folder
#: Of each runtime: the digests of the files that hold what it runs, as it was opened and as it was saved since.
_ITS_FILES: WeakKeyDictionary[Runtime, set[str]] = WeakKeyDictionary()


def save(g: Guard, path: Path) -> Path:
    """`Guard.save`: the same weights with the guard's current manifest (its new calibration).

    Raises:
        ArtefactDamagedError: the guard's file was replaced by another since it was opened.
        ConfigError: a format that the guard is not in.
    """
    check_saveable(g, path)
    if path.suffix not in FILES:
        return save_pretrained(g, path)
    source = g.path
    assert source is not None  # a file is saved as one
    data, before = read_again(g)
    own = g.manifest.model_copy(update={"engine": before.engine})  # what runs may be built of it, for this machine
    if path.suffix == ".onnx":
        written = write_onnx(path, _recalibrated(graph_bytes(data), own), own)
    else:
        written = write_pair(path, engine_manifest_path(path), data, own)
        beside = engine_source_path(source)
        if beside.exists() and path != source:
            write_atomic(engine_source_path(path), beside.read_bytes())
    _ITS_FILES[g.runtime].add(written.weights_sha256)
    g.manifest = written.model_copy(update={"engine": g.manifest.engine})
    return path


def check_saveable(g: Guard, path: Path) -> None:
    """Raises: ConfigError: `save` cannot write the guard to this path, for it is of another kind."""
    source = g.path
    same_file = source is not None and source.suffix == path.suffix and path.suffix in FILES
    folder = getattr(g.runtime, "module", None) is not None and path.suffix not in FILES
    if not same_file and not folder:
        raise ConfigError(
            f"a guard running on {g.runtime.name} cannot be saved as {path.name}; use guard.export to change the format"
        )


def read_again(g: Guard) -> tuple[bytes, Manifest]:
    """The checked bytes and the manifest of the file that a guard was loaded from, or saved to since.

    Raises:
        ArtefactDamagedError: it was replaced by another guard's since then.
    """
    source = g.path
    assert source is not None  # the caller has seen that it is a file
    data, there = read_onnx(source) if source.suffix == ".onnx" else read_pair(source, engine_manifest_path(source))
    # an engine that was built for this machine has the digest of the file that it was built of
    if there.weights_sha256 not in _ITS_FILES.setdefault(g.runtime, {g.manifest.weights_sha256}):
        raise ArtefactDamagedError(
            f"{source} was replaced since this guard was opened, and its thresholds are not that file's; load it again"
        )
    return data, there


def _recalibrated(graph: bytes, manifest: Manifest) -> bytes:
    """The graph with the manifest's thresholds and temperature as its defaults."""
    decision, names = Decision.of(manifest), graph_inputs(graph)
    if decision.needs <= names:
        return set_defaults(graph, decision.defaults(names))
    try:
        return cast("bytes", sibling("export.optional_inputs").recalibrated(graph, manifest))
    except ModuleNotFoundError as error:
        added = " and ".join(sorted(decision.needs - names))
        raise MissingExtraError(f"{error.name} (needed to add {added} to the graph)", "train") from error
