"""The sources compile on every Python that pyproject.toml claims, whichever runs the tests."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("guard", "train", "export", "serving")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def test_the_grammar_is_that_of_the_oldest_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    for path in SOURCES:
        ast.parse(path.read_text(), str(path), feature_version=(3, 11))


def test_nothing_warns_when_compiled() -> None:
    """Invalid escapes are quiet in 3.11 (a DeprecationWarning) and loud in 3.12 (a SyntaxWarning)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in SOURCES:
            compile(path.read_text(), str(path), "exec", dont_inherit=True)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_installed_python_compiles_them(version: str, tmp_path: Path) -> None:
    python = shutil.which(f"python{version}")
    works = python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version or not works:
        pytest.skip(f"no other Python {version} on this machine")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(python), "-W", "error", "-m", "compileall", "-q", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
