"""The extras: a CPU's packages and a GPU's are the same modules, so no extra brings both, and each pair resolves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from guard.twins import TWINS

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def brings(extra: str) -> set[str]:
    """Names of the packages of an extra, with those of the extras that it names."""
    found: set[str] = set()
    for requirement in EXTRAS[extra]:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[([^]]*)\])?", requirement)
        assert match is not None
        name, of = match[1].lower(), match[2]
        found |= set().union(*map(brings, of.split(","))) if name == "ood-guard" else {name}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_both_twins(extra: str) -> None:
    for names in TWINS.values():
        assert len(brings(extra) & set(names)) <= 1


def test_each_side_brings_all_its_twins() -> None:
    assert {"onnxruntime", "faiss-cpu"} <= brings("cpu")
    assert {"onnxruntime-gpu", "faiss-gpu"} <= brings("gpu")
    assert not brings("train") & {name for names in TWINS.values() for name in names}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("side", "other"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_they_resolve_with_training(side: str, other: str, tmp_path: Path) -> None:
    """As pip would install them into an empty environment; it needs the network."""
    report = tmp_path / "report.json"
    asked = [f".[train,{side}]", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {entry["metadata"]["name"].lower() for entry in json.loads(report.read_text())["install"]}
    assert brings(side) | brings("train") <= names
    assert not brings(other) & names
