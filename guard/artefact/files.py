"""Read and write guards on disk; refuse what was changed, cut short, of another version or not ours.

ONNX has no integrity check (ONNX Runtime loads most files with a flipped bit and scores differently), so every file
of ours ends in a digest of itself. Protobuf lets fields follow in any order, which makes this possible in one file:

    guard.onnx  =  graph bytes | metadata_props {ood_guard.manifest: JSON} | metadata_props {ood_guard.sha256: hex}

The last entry has a fixed length and holds the SHA-256 of all bytes before it. An engine has `<file>.json` beside it,
a run folder is `guard.safetensors` + `guard.json`; both JSON files hold the manifest, the digest of the weights and a
digest of the manifest. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ArtefactDamagedError, ArtefactNotFoundError, ArtefactVersionError
from ..manifest import FORMAT_VERSION, READABLE_VERSIONS, Manifest

MANIFEST_KEY = "ood_guard.manifest"
DIGEST_KEY = "ood_guard.sha256"
FOLDER_WEIGHTS = "guard.safetensors"
FOLDER_MANIFEST = "guard.json"
_METADATA_FIELD = 14  # ModelProto.metadata_props


def write_atomic(path: str | Path, data: bytes) -> Path:
    """Write the whole file or nothing: a temporary neighbour, flushed to disk, then one rename.

    Of a link the target is written, and a file that is there keeps its mode.
    """
    path, place = Path(path), Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


# ------------------------------------------------------------------------------------------------- ONNX, one file


def write_onnx(path: str | Path, graph: bytes, manifest: Manifest) -> Manifest:
    """Write `graph` (a serialised ModelProto without our entries) and `manifest` as one file; returns the manifest
    as written, with `weights_sha256` set to the digest of `graph`."""
    manifest = manifest.model_copy(update={"weights_sha256": hashlib.sha256(graph).hexdigest()})
    body = graph + _entry(MANIFEST_KEY, manifest.model_dump_json().encode())
    write_atomic(path, body + _entry(DIGEST_KEY, hashlib.sha256(body).hexdigest().encode()))
    return manifest


def read_onnx(path: str | Path) -> tuple[bytes, Manifest]:
    """The checked bytes of the file (ONNX Runtime takes them as they are) and its manifest.

    Raises:
        ArtefactNotFoundError, ArtefactDamagedError, ArtefactVersionError: with a sentence that says which.
    """
    path = _existing_file(path)
    data = path.read_bytes()
    graph_end, entries = _walk(path, data)
    if MANIFEST_KEY not in entries:
        raise ArtefactDamagedError(
            f"{path} is an ONNX model, but not one made by ood-guard (it holds no manifest); "
            "make one with guard.export(g, 'guard.onnx')"
        )
    manifest_json, digest = entries[MANIFEST_KEY], entries.get(DIGEST_KEY, b"")
    body = data[: len(data) - len(_entry(DIGEST_KEY, b"0" * 64))]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ArtefactDamagedError(f"{path} was changed after it was written (its SHA-256 differs); export it again")
    manifest = _parse_manifest(path, manifest_json)
    if hashlib.sha256(data[:graph_end]).hexdigest() != manifest.weights_sha256:
        raise ArtefactDamagedError(f"{path} holds another graph than its manifest names; export it again")
    return data, manifest


def graph_bytes(data: bytes) -> bytes:
    """The graph inside a file that `read_onnx` has checked: everything before our metadata entries."""
    return data[: _walk(Path("guard.onnx"), data)[0]]


def engine_manifest_path(path: Path) -> Path:
    """``guard.engine`` -> ``guard.engine.json``, the manifest beside it."""
    return path.with_name(path.name + ".json")


def engine_source_path(path: Path) -> Path:
    """``guard.engine`` -> ``guard.engine.onnx``, the guard that it was built of, beside it."""
    return path.with_name(path.name + ".onnx")


def _entry(key: str, value: bytes) -> bytes:
    """One ModelProto.metadata_props field: a StringStringEntryProto {1: key, 2: value}."""
    pair = b"\x0a" + _varint(len(key)) + key.encode() + b"\x12" + _varint(len(value)) + value
    return bytes([_METADATA_FIELD << 3 | 2]) + _varint(len(pair)) + pair


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def protobuf_fields(data: bytes | memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """(field, wire type, start, value start, end) of each top-level field of a protobuf message; IndexError where the
    data ends early, ValueError where it is none."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        wire = tag & 7
        value = at
        if wire == 0:
            _, at = _read_varint(data, at)
        elif wire == 1:
            at += 8
        elif wire == 2:
            length, value = _read_varint(data, at)
            at = value + length
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise IndexError
        yield tag >> 3, wire, start, value, at


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _walk(path: Path, data: bytes) -> tuple[int, dict[str, bytes]]:
    """Where the graph's bytes end and our metadata entries."""
    graph_end, entries, has_graph = len(data), dict[str, bytes](), False
    try:
        for field, wire, start, value, end in protobuf_fields(data):
            has_graph |= field == 7 and wire == 2
            if field != _METADATA_FIELD or wire != 2:
                continue
            pair = {f: data[value + v : value + e] for f, _, _, v, e in protobuf_fields(data[value:end])}
            key = pair.get(1, b"").decode(errors="replace")
            if key in (MANIFEST_KEY, DIGEST_KEY):
                graph_end = min(graph_end, start)
                entries[key] = pair.get(2, b"")
    except IndexError:
        if data[:1] == b"\x08":  # ModelProto begins with ir_version
            raise ArtefactDamagedError(
                f"{path} is cut short: it ends inside the model after {len(data)} bytes; copy or export it again"
            ) from None
        raise ArtefactDamagedError(f"{path} is not an ONNX file") from None
    except ValueError:
        raise ArtefactDamagedError(f"{path} is not an ONNX file, or was changed beyond reading") from None
    if not has_graph:
        raise ArtefactDamagedError(f"{path} is {'empty' if not data else 'not an ONNX file'}; export the guard again")
    return graph_end, entries


# ---------------------------------------------------------------------------------- weights with a JSON beside them


def write_pair(weights_path: str | Path, manifest_path: str | Path, weights: bytes, manifest: Manifest) -> Manifest:
    """Write weights (a TensorRT engine or safetensors) and the JSON that names their digest."""
    manifest = manifest.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    write_atomic(weights_path, weights)
    content = manifest.model_dump(mode="json")
    text = json.dumps({"manifest": content, "sha256": _json_digest(content)}, indent=1, ensure_ascii=False)
    write_atomic(manifest_path, text.encode())
    return manifest


def read_pair(weights_path: str | Path, manifest_path: str | Path) -> tuple[bytes, Manifest]:
    """The checked weights and manifest; raises as `read_onnx` does."""
    weights_path, manifest_path = _existing_file(weights_path), Path(manifest_path)
    if not manifest_path.exists():
        raise ArtefactNotFoundError(
            f"{manifest_path.name}, the manifest of {weights_path}, is not beside it; copy both files, or write the "
            "guard again"
        )
    manifest_path = _existing_file(manifest_path)
    try:
        record = json.loads(manifest_path.read_bytes())
        content, digest = record["manifest"], record["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ArtefactDamagedError(
            f"{manifest_path} is not a manifest made by ood-guard, or is cut short; write the guard again"
        ) from None
    if _json_digest(content) != digest:
        raise ArtefactDamagedError(
            f"{manifest_path} was changed after it was written (its SHA-256 differs); write the guard again"
        )
    manifest = _parse_manifest(manifest_path, json.dumps(content).encode())
    weights = weights_path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
        raise ArtefactDamagedError(
            f"{weights_path} was changed or cut short after it was written (its SHA-256 differs from "
            f"{manifest_path.name}); write the guard again"
        )
    return weights, manifest


def _json_digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise ArtefactNotFoundError(f"no such guard: {path}; make one with guard.export(g, {str(path)!r})")
    if not path.is_file():
        raise ArtefactDamagedError(f"{path} is not a file")
    return path


def _parse_manifest(path: Path, text: bytes) -> Manifest:
    try:
        content = json.loads(text)
        version = content.get("format_version")
    except (ValueError, AttributeError):
        raise ArtefactDamagedError(f"{path} holds a manifest that is not JSON; export it again") from None
    if version not in READABLE_VERSIONS:
        raise ArtefactVersionError(
            f"{path} has artefact format version {version!r}; this ood-guard reads versions {READABLE_VERSIONS[0]} to "
            f"{READABLE_VERSIONS[-1]}: export the guard again with the installed version, or install the ood-guard "
            "that wrote it"
        )
    try:  # what is in memory is of the current version, and so is what is written from it
        return Manifest.model_validate_json(json.dumps({**content, "format_version": FORMAT_VERSION}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtefactDamagedError(f"{path} holds a manifest with a bad field {where}: {first['msg']}") from None
