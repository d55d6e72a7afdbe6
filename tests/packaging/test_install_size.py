"""What is installed to run a guard is small, and README.md says how large. It needs the network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 200e6  # bytes of the base and ONNX Runtime
INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
STATED = re.compile(r"(\d+) MB with `cpu`, (\d+) MB without faiss")
PREDICTS = """
import sys, numpy as np, guard
g = guard.load(sys.argv[1])
assert g.predict(np.zeros((2, 16, 16, 3), np.uint8)).is_ood.shape == (2,)
assert not {"torch", "faiss"} & set(sys.modules)
"""


def sizes(site: Path) -> Counter[str]:
    """Bytes of each package in a site-packages folder, without bytecode and what installs packages."""
    found: Counter[str] = Counter()
    for path in site.rglob("*"):
        package = path.relative_to(site).parts[0]
        if path.is_file() and "__pycache__" not in path.parts and not package.startswith(INSTALLERS):
            found[package] += path.stat().st_size
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_runs_a_guard_is_small_and_the_readme_says_so(
    wheel: Path, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    run(python, "-m", "pip", "install", "--quiet", wheel, "onnxruntime")
    without_faiss = sizes(site)
    run(python, "-I", "-c", PREDICTS, exported("plain"))
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]")
    whole = sizes(site)
    report = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in whole.most_common(12))
    assert without_faiss.total() <= MOST, report
    stated = STATED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert stated is not None, report
    measured = [whole.total() / 1e6, without_faiss.total() / 1e6]
    assert [int(number) for number in stated.groups()] == pytest.approx(measured, rel=0.1), report
    print(f"\n{measured[0]:.0f} MB, {measured[1]:.0f} MB without faiss: {report}")


def test_the_readme_states_a_size() -> None:
    stated = STATED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert int(stated[2]) < int(stated[1])
    assert int(stated[2]) * 1e6 <= MOST


def test_bytecode_and_installers_are_not_counted(tmp_path: Path) -> None:
    for name in ("numpy/a.py", "numpy/__pycache__/a.pyc", "pip/b.py", "setuptools-65.dist-info/RECORD", "six.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    assert sizes(tmp_path) == {"numpy": 5, "six.py": 5}
