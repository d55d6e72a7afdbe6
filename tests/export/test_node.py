"""A consumer that is not Python: onnxruntime-web in Node gives the same labels and flags on 1,000 images."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import guard
from tests.random_guards import make_guard

CONSUMER = Path(__file__).with_name("node_consumer.mjs")
PACKAGE = "onnxruntime-web@^1.24"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the consumer and the package that it needs."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not on this machine")
    place = tmp_path_factory.mktemp("node")
    shutil.copy(CONSUMER, place)
    install = [npm, "install", "--ignore-scripts", "--no-fund", "--no-audit", "--no-save", PACKAGE]
    done = subprocess.run(install, cwd=place, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGE} here: {done.stderr.strip()[-200:]}")
    return place


def test_the_same_flags_on_a_thousand_images(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 16, 16, 3), dtype=np.uint8)
    images[::2] //= 8
    g = make_guard("energy", "linear").calibrate(images[:400], alpha=0.4)
    path = guard.export(g, folder / "guard.onnx", data=images[:64])
    images.tofile(folder / "images.bin")
    command = ["node", CONSUMER.name, path.name, "images.bin", "16", "16", "3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    theirs, ours = json.loads(done.stdout), guard.load(path).predict(images)
    assert 0.2 < ours.is_ood.mean() < 0.6
    np.testing.assert_array_equal(theirs["label"], ours.label)
    np.testing.assert_array_equal(np.array(theirs["is_ood"], bool), ours.is_ood)
    np.testing.assert_allclose(theirs["ood_score"], ours.ood_score, rtol=1e-4, atol=1e-4)
