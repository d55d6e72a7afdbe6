"""ONNX Runtime's optimised graph is kept, used again, and made anew where it is not this file's or this machine's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import guard
from guard.artefact.files import write_onnx
from guard.errors import ArtefactDamagedError, ConfigError
from guard.runtimes import onnx_session
from tests.random_guards import exported

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    g, graph = exported("energy", "linear")
    write_onnx(tmp_path / "guard.onnx", graph, g.manifest)
    return tmp_path / "guard.onnx"


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the optimisation of every session that is opened."""
    seen: list[str] = []
    real = onnx_session.session_options

    def noted(module: Any, settings: Any) -> Any:
        seen.append(settings.optimisation)
        return real(module, settings)

    monkeypatch.setattr(onnx_session, "session_options", noted)
    return seen


def kept(folder: Path) -> tuple[Path, Path]:
    """The optimised graph and its record."""
    graph, record = sorted(folder.iterdir())
    return graph, record


def load(path: Path, folder: Path) -> guard.Guard:
    return guard.load(path, device="cpu", threads=1, cache=folder)


def test_it_is_made_once_and_decides_alike(path: Path, tmp_path: Path, levels: list[str]) -> None:
    folder = tmp_path / "cache"
    plain = guard.load(path, device="cpu", threads=1)
    first, second = load(path, folder), load(path, folder)
    assert levels == ["all", "all", "none"]
    graph, record = kept(folder)
    assert graph.name.endswith("-CPUExecutionProvider.onnx")
    assert json.loads(record.read_text())["onnxruntime"] == ort.__version__
    assert second.runtime.optional_inputs == plain.runtime.optional_inputs
    between = float(np.median(plain.predict(IMAGES).ood_score))
    for g in (first, second):
        for threshold in (None, between):
            np.testing.assert_array_equal(
                g.predict(IMAGES, threshold=threshold).is_ood, plain.predict(IMAGES, threshold=threshold).is_ood
            )
        np.testing.assert_array_equal(g.predict(IMAGES).ood_score, plain.predict(IMAGES).ood_score)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a bit of it", r"changed or cut short after it was written \(its SHA-256 differs\)"),
        ("its end", "changed or cut short after it was written"),
        ("its record", "what it was made with is not known"),
        ("onnxruntime", "made with onnxruntime 0.1, and this is"),
        ("provider", "made with provider 0.1, and this is CPUExecutionProvider"),
        ("processor", "made with processor 0.1, and this is"),
        ("source_sha256", "made with source_sha256 0.1, and this is"),
    ],
)
def test_what_differs_is_made_anew(
    path: Path, tmp_path: Path, levels: list[str], caplog: Any, what: str, said: str
) -> None:
    folder = tmp_path / "cache"
    expected = load(path, folder).predict(IMAGES).ood_score
    graph, record = kept(folder)
    content = bytearray(graph.read_bytes())
    if what == "a bit of it":
        content[len(content) // 2] ^= 1
        graph.write_bytes(bytes(content))
    elif what == "its end":
        graph.write_bytes(bytes(content[:-9]))
    elif what == "its record":
        record.unlink()
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {what: "0.1"}))
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        again = load(path, folder)
    assert levels == ["all", "all"]
    np.testing.assert_array_equal(again.predict(IMAGES).ood_score, expected)
    import re

    assert re.search(f"is made anew: it was {said}|is made anew: {said}", caplog.text)
    load(path, folder)
    assert levels[-1] == "none"


def test_another_calibration_is_another_file(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    g = load(path, folder)
    loose = g.calibrate(IMAGES, alpha=0.5)
    loose.save(tmp_path / "loose.onnx")
    found = load(tmp_path / "loose.onnx", folder)
    assert found.runtime.run(IMAGES).is_ood.sum() == loose.predict(IMAGES).is_ood.sum() > 0
    assert len(list(folder.iterdir())) == 4


def test_the_file_itself_is_checked_all_the_same(path: Path, tmp_path: Path) -> None:
    load(path, tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtefactDamagedError):
        load(path, tmp_path / "cache")


def test_a_folder_that_takes_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"cache=.*taken' is a file; give a folder"):
        load(path, tmp_path / "taken")
