"""A file that was changed, cut short, of another version or not ours is refused; one of ours is plain ONNX."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from guard.artefact import files as artefact
from guard.errors import ArtefactDamagedError, ArtefactNotFoundError, ArtefactVersionError
from guard.manifest import FORMAT_VERSION, Manifest, Normalisation, Preprocess


def _graph() -> bytes:
    """y = x * w, with weights that fill a few hundred bytes."""
    weights = np.arange(64, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor("w", TensorProto.FLOAT, [64], weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def graph() -> bytes:
    return _graph()


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="cats",
        class_names=("cat", "dög"),
        preprocess=Preprocess(height=8, width=8),
        normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        method="plain",
        backbone="wrn16_2",
        head="linear",
        score="energy",
        metrics={"accuracy": 0.875},
    )


@pytest.fixture
def written(tmp_path: Path, graph: bytes, manifest: Manifest) -> Path:
    path = tmp_path / "guard.onnx"
    artefact.write_onnx(path, graph, manifest)
    return path


# ------------------------------------------------------------------------------------------------- what is written


def test_what_is_read_is_what_was_written(written: Path, graph: bytes, manifest: Manifest) -> None:
    data, read = artefact.read_onnx(written)
    assert data == written.read_bytes()
    assert artefact.graph_bytes(data) == graph
    assert read == manifest.model_copy(update={"weights_sha256": hashlib.sha256(graph).hexdigest()})


def test_the_file_is_valid_onnx_with_readable_metadata(written: Path, manifest: Manifest) -> None:
    model = onnx.load(written)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {artefact.MANIFEST_KEY, artefact.DIGEST_KEY}
    assert json.loads(metadata[artefact.MANIFEST_KEY])["class_names"] == ["cat", "dög"]
    assert len(metadata[artefact.DIGEST_KEY]) == 64


def test_onnxruntime_runs_the_file_and_sees_the_manifest(written: Path) -> None:
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": np.full((2, 64), 2, np.float32)})
    np.testing.assert_array_equal(y, np.tile(np.arange(64, dtype=np.float32) * 2, (2, 1)))
    custom = session.get_modelmeta().custom_metadata_map
    assert Manifest.model_validate_json(custom[artefact.MANIFEST_KEY]).metrics == {"accuracy": 0.875}


def test_writing_again_changes_the_manifest_and_not_the_graph(written: Path, graph: bytes, manifest: Manifest) -> None:
    data, _ = artefact.read_onnx(written)
    artefact.write_onnx(written, artefact.graph_bytes(data), manifest.model_copy(update={"name": "dogs"}))
    data, read = artefact.read_onnx(written)
    assert read.name == "dogs"
    assert artefact.graph_bytes(data) == graph


# -------------------------------------------------------------------------------------------------- what is refused


def test_a_changed_byte_is_refused_wherever_it_is(written: Path) -> None:
    data = written.read_bytes()
    for position in range(len(data)):
        written.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        with pytest.raises((ArtefactDamagedError, ArtefactVersionError)):
            artefact.read_onnx(written)


def test_every_single_bit_flip_is_refused(written: Path) -> None:
    data = written.read_bytes()
    positions = np.random.default_rng(0).choice(len(data), 120, replace=False)
    # the framing of the entries and their ends, where a parser is most easily misled
    ends = {0, 1, len(data) - 1, *range(len(data) - 100, len(data) - 60)}
    for position in {*positions.tolist(), *ends}:
        for bit in range(8):
            written.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            with pytest.raises((ArtefactDamagedError, ArtefactVersionError)):
                artefact.read_onnx(written)


def test_a_file_cut_short_anywhere_is_refused(written: Path) -> None:
    data = written.read_bytes()
    for length in range(len(data)):
        written.write_bytes(data[:length])
        with pytest.raises(ArtefactDamagedError):
            artefact.read_onnx(written)


def test_a_file_cut_inside_the_graph_says_so(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:200])
    with pytest.raises(ArtefactDamagedError, match=r"guard\.onnx is cut short: .* after 200 bytes"):
        artefact.read_onnx(written)


@pytest.mark.parametrize("extra", [b"\x00", b"\x72\x00", b"more", b"\x0a\x00"])
def test_bytes_appended_after_the_digest_are_refused(written: Path, extra: bytes) -> None:
    written.write_bytes(written.read_bytes() + extra)
    with pytest.raises(ArtefactDamagedError):
        artefact.read_onnx(written)


def test_a_changed_weight_says_that_the_file_was_changed(written: Path) -> None:
    data = written.read_bytes()
    at = data.index(np.float32(63).tobytes())
    written.write_bytes(data[:at] + np.float32(62).tobytes() + data[at + 4 :])
    with pytest.raises(ArtefactDamagedError, match="was changed after it was written"):
        artefact.read_onnx(written)


def test_a_graph_swapped_under_a_new_digest_is_refused(written: Path, graph: bytes, manifest: Manifest) -> None:
    """Resealing the file does not help while the manifest names another graph."""
    sealed = manifest.model_copy(update={"weights_sha256": hashlib.sha256(graph).hexdigest()})
    other = graph.replace(np.float32(63).tobytes(), np.float32(1).tobytes())
    body = other + artefact._entry(artefact.MANIFEST_KEY, sealed.model_dump_json().encode())
    written.write_bytes(body + artefact._entry(artefact.DIGEST_KEY, hashlib.sha256(body).hexdigest().encode()))
    with pytest.raises(ArtefactDamagedError, match="holds another graph than its manifest names"):
        artefact.read_onnx(written)


def test_another_format_version_says_which(tmp_path: Path, graph: bytes, manifest: Manifest) -> None:
    path = tmp_path / "guard.onnx"
    artefact.write_onnx(path, graph, manifest.model_copy(update={"format_version": FORMAT_VERSION + 6}))
    with pytest.raises(
        ArtefactVersionError, match=rf"version {FORMAT_VERSION + 6}; .* reads versions 1 to {FORMAT_VERSION}:"
    ):
        artefact.read_onnx(path)


def test_a_manifest_with_a_bad_field_names_the_field(tmp_path: Path, graph: bytes, manifest: Manifest) -> None:
    path = tmp_path / "guard.onnx"
    bad = manifest.preprocess.model_copy(update={"height": 0})
    artefact.write_onnx(path, graph, manifest.model_copy(update={"preprocess": bad}))
    with pytest.raises(ArtefactDamagedError, match=r"bad field preprocess\.height"):
        artefact.read_onnx(path)


def test_somebody_elses_onnx_model_is_refused(tmp_path: Path, graph: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(graph)
    with pytest.raises(ArtefactDamagedError, match="not one made by ood-guard"):
        artefact.read_onnx(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, this is a text file\n", "not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file"),
        (b"PK\x03\x04" + bytes(100), "not an ONNX file"),
    ],
)
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "guard.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtefactDamagedError, match=sentence):
        artefact.read_onnx(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactNotFoundError, match=r"no such guard: .*absent\.onnx"):
        artefact.read_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ArtefactDamagedError, match="is not a file"):
        artefact.read_onnx(tmp_path)


# ---------------------------------------------------------------------------------- weights with a JSON beside them


@pytest.fixture
def pair(tmp_path: Path, manifest: Manifest) -> tuple[Path, Path]:
    weights, record = tmp_path / "guard.engine", tmp_path / "guard.engine.json"
    artefact.write_pair(weights, record, bytes(range(256)), manifest)
    return weights, record


def test_a_pair_is_read_as_it_was_written(pair: tuple[Path, Path], manifest: Manifest) -> None:
    weights, read = artefact.read_pair(*pair)
    assert weights == bytes(range(256))
    assert read == manifest.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})


def test_changed_or_cut_weights_are_refused(pair: tuple[Path, Path]) -> None:
    weights = pair[0]
    data = weights.read_bytes()
    for changed in (data[:-1], data + b"\0", bytes([data[0] ^ 1]) + data[1:], b""):
        weights.write_bytes(changed)
        with pytest.raises(ArtefactDamagedError, match=r"guard\.engine was changed or cut short"):
            artefact.read_pair(*pair)


def test_an_edited_json_is_refused(pair: tuple[Path, Path]) -> None:
    record = json.loads(pair[1].read_text())
    record["manifest"]["class_names"] = ["dog", "cat"]
    pair[1].write_text(json.dumps(record))
    with pytest.raises(ArtefactDamagedError, match=r"guard\.engine\.json was changed"):
        artefact.read_pair(*pair)


def test_reformatting_the_json_is_harmless(pair: tuple[Path, Path]) -> None:
    record = json.loads(pair[1].read_text())
    pair[1].write_text(json.dumps(dict(reversed(record.items())), ensure_ascii=True))
    assert artefact.read_pair(*pair)[1].class_names == ("cat", "dög")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"manifest": {}}', "null", '"text"'])
def test_a_json_that_is_not_ours_is_refused(pair: tuple[Path, Path], content: str) -> None:
    pair[1].write_text(content)
    with pytest.raises(ArtefactDamagedError, match="not a manifest made by ood-guard"):
        artefact.read_pair(*pair)


def test_either_half_missing_is_named(pair: tuple[Path, Path]) -> None:
    pair[1].unlink()
    with pytest.raises(ArtefactNotFoundError, match=r"guard\.engine\.json"):
        artefact.read_pair(*pair)


# ------------------------------------------------------------------------------------------ whole files or nothing


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "guard.onnx"
    artefact.write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        artefact.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["guard.onnx"]


def test_a_killed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """SIGKILL between writing and renaming: the name still holds the whole old content."""
    path = tmp_path / "guard.onnx"
    artefact.write_atomic(path, b"old")
    script = textwrap.dedent(f"""
        import os, signal
        from guard.artefact import files as artefact
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        artefact.write_atomic({str(path)!r}, b"new" * 100_000)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_write_atomic_makes_folders_and_readable_files(tmp_path: Path) -> None:
    path = artefact.write_atomic(tmp_path / "a" / "b" / "guard.json", b"{}")
    assert path.read_bytes() == b"{}"
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_atomic_writes_what_a_link_points_to_and_keeps_modes(tmp_path: Path) -> None:
    path = artefact.write_atomic(tmp_path / "models" / "guard-7.onnx", b"old")
    path.chmod(0o640)
    link = tmp_path / "current.onnx"
    link.symlink_to(Path("models") / "guard-7.onnx")
    for place, content in ((link, b"new"), (path, b"newer")):
        assert artefact.write_atomic(place, content) == place
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    (tmp_path / "next.onnx").symlink_to(tmp_path / "models" / "guard-8.onnx")
    artefact.write_atomic(tmp_path / "next.onnx", b"8")
    assert (tmp_path / "models" / "guard-8.onnx").read_bytes() == b"8"
    assert sorted(p.name for p in tmp_path.rglob("*.onnx")) == [
        "current.onnx",
        "guard-7.onnx",
        "guard-8.onnx",
        "next.onnx",
    ]
