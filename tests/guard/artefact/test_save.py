"""`Guard.save` writes the weights that the guard runs, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.artefact.files import write_onnx
from guard.errors import ArtefactDamagedError
from tests.fake_tensorrt import Cuda, install, tensorrt
from tests.serving.conftest import colour_graph, colour_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "guard.onnx", colour_graph(), colour_manifest())
    return tmp_path / "guard.onnx"


def other(path: Path) -> bytes:
    """Another guard's file in the place of this one."""
    graph = colour_graph()
    write_onnx(
        path, graph.replace(b"colour", b"colors") if b"colour" in graph else graph + b"\x2a\x00", colour_manifest()
    )
    return path.read_bytes()


def test_a_file_that_was_replaced_is_not_given_this_guards_thresholds(path: Path) -> None:
    g = guard.load(path, device="cpu")
    theirs = other(path)
    for place in (path, path.with_name("b.onnx")):
        with pytest.raises(ArtefactDamagedError, match=r"guard\.onnx was replaced since this guard was opened"):
            g.calibrate(IMAGES, alpha=0.1).save(place)
    assert path.read_bytes() == theirs
    assert not path.with_name("b.onnx").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lower.onnx", {"precision": "fp16"}),
        ("guard.engine", {}),
        ("colours", {"format": "triton"}),
        ("lower", {"format": "triton", "precision": "int8"}),
    ],
)
def test_another_guards_file_is_not_exported_as_this_one(path: Path, name: str, options: dict[str, Any]) -> None:
    g = guard.load(path, device="cpu")
    other(path)
    with pytest.raises(ArtefactDamagedError, match=r"guard\.onnx was replaced since this guard was opened"):
        guard.export(g, path.with_name(name), data=IMAGES, **options)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ran", ["onnx in tensorrt", "engine", "engine built again"])
def test_what_runs_in_tensorrt_is_not_saved_over_another_guard(
    path: Path, ran: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda()
    install(monkeypatch, cuda, tensorrt("10.9.0.34", cuda))
    place = path
    if ran != "onnx in tensorrt":
        place = guard.export(path, path.with_name("guard.engine"))
        other(path)
        theirs = guard.export(path, path.with_name("theirs.engine"))
    if ran == "engine built again":
        cuda = Cuda("NVIDIA Other")
        install(monkeypatch, cuda, tensorrt("10.9.0.34", cuda))
    g = guard.load(place, runtime="tensorrt")
    g.calibrate(IMAGES, alpha=0.1).save(place)
    if ran == "onnx in tensorrt":
        other(path)
    else:
        for ending in ("", ".json", ".onnx"):
            shutil.copy(f"{theirs}{ending}", f"{place}{ending}")
    there = place.read_bytes()
    with pytest.raises(ArtefactDamagedError, match="was replaced since this guard was opened"):
        g.calibrate(IMAGES, alpha=0.2).save(place)
    assert place.read_bytes() == there


def test_what_it_saved_itself_is_its_own(path: Path) -> None:
    """Again and again, over itself and beside itself, by any of the guards of one runtime."""
    g = guard.load(path, device="cpu")
    for alpha in (0.1, 0.2):
        made = g.calibrate(IMAGES, alpha=alpha)
        made.save(path)
        made.save(path.with_name("b.onnx"))
        made.save(path)
        assert guard.load(path, device="cpu").manifest.calibration.alpha == alpha
