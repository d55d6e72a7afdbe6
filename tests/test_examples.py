"""docs/examples: every file runs by itself, in an empty folder, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_and_flags_what_is_new(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr
    shares = [float(share) for share in re.findall(r"([\d.]+)% (?:of \d+ nines are )?flagged", ran.stdout)]
    assert shares, ran.stdout
    assert max(shares) > 12  # twice the false alarms that were asked for, and more
    assert list((tmp_path / "runs" / "examples").glob("*.onnx"))


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "MPLBACKEND"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.delenv("MPLBACKEND")  # the kernel has its own

    def run(notebook: Path) -> Any:
        made = nbformat.read(notebook, as_version=4)
        where = {"metadata": {"path": str(tmp_path)}}
        return NotebookClient(made, timeout=300, kernel_name="python3", resources=where).execute()

    return run


@pytest.mark.filterwarnings("ignore")  # of the kernel's client
def test_the_notebook_runs_and_draws(run_here: Any, tmp_path: Path) -> None:
    made = run_here(EXAMPLES / "quickstart.ipynb")
    outputs = [output for cell in made.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("flag flips        0" in output.get("text", "") for output in outputs)
    assert (tmp_path / "runs" / "examples" / "notebook.onnx").is_file()


def test_it_is_committed_without_outputs() -> None:
    made = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in made.cells)


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in [*SCRIPTS, *EXAMPLES.glob("*.ipynb")]:
        assert f"({path.name})" in page
