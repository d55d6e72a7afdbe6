"""`Guard.save` writes the weights that the guard runs, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import guard
from guard.artefact.files import write_onnx
from guard.errors import ArtefactDamagedError
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


def test_what_it_saved_itself_is_its_own(path: Path) -> None:
    """Again and again, over itself and beside itself, by any of the guards of one runtime."""
    g = guard.load(path, device="cpu")
    for alpha in (0.1, 0.2):
        made = g.calibrate(IMAGES, alpha=alpha)
        made.save(path)
        made.save(path.with_name("b.onnx"))
        made.save(path)
        assert guard.load(path, device="cpu").manifest.calibration.alpha == alpha
