"""benchmarks/gpu.sh at toy size, on the CPU: every part runs, and writes as it goes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.part import PARTS, Part, page

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def toy(out: Path, *parts: str) -> str:
    """What the script says; it must end well."""
    environment = {**os.environ, "OUT": str(out), "ONLY": " ".join(parts), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", SCRIPT, "--toy"], cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(out: Path, part: str) -> list[dict[str, object]]:
    record = json.loads((out / f"{part}.json").read_text())
    assert record["complete"]
    assert record["toy"]
    assert not record["skipped"], record["skipped"]
    found: list[dict[str, object]] = record["rows"]
    return found


def test_the_first_part_and_the_bank(tmp_path: Path) -> None:
    said = toy(tmp_path, "guard_cost", "bank")
    assert "== guard_cost (at most 1700 s)" in said
    assert "== training" not in said
    cost = rows(tmp_path, "guard_cost")
    assert [(row["precision"], row["batch"]) for row in cost] == [
        (p, b) for p in ("fp32", "bf16", "fp16") for b in (1, 4)
    ]
    assert all(row["flag flips"] == 0 for row in cost if row["precision"] == "fp32")
    (near,) = rows(tmp_path, "bank")
    assert float(str(near["largest difference of distance"])) < 1e-5
    text = (tmp_path / "gpu.md").read_text()
    assert "At toy size, on the CPU" in text
    assert text.index("## guard / bare on torch") < text.index("## Exact kNN")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part(tmp_path: Path) -> None:
    toy(tmp_path, *PARTS)
    trained = {row["method"]: row for row in rows(tmp_path, "training")}
    assert list(trained) == ["plain", "vos", "phase_mix", "vos, resumed"]
    assert trained["vos, resumed"]["largest difference, resumed"] == 0
    assert trained["vos"]["waits in a step"] == "none"
    run = rows(tmp_path, "engines")
    assert {row["precision"] for row in run if row["runtime"] == "onnxruntime"} == {"fp32", "fp16", "int8"}
    assert all(row["flag flips"] == 0 for row in run if row["precision"] == "fp32" and "flag flips" in row)
    assert {row["what"] for row in rows(tmp_path, "diffusion")} == {"sampling", "embedding (NCIS)"}


def test_the_limits_leave_the_whole_below_twelve_minutes() -> None:
    lines = [line.split()[:3] for line in SCRIPT.read_text().splitlines() if line.startswith("part ")]
    assert [name for _, name, *_ in lines] == list(PARTS)
    assert sum(int(seconds) + 5 for _, _, seconds in lines) <= 12 * 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU is told")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "ONLY": "bank"}
    done = subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "bank measures a GPU and torch sees none; --toy runs it on the CPU" in done.stderr


def test_results_are_written_as_they_come(tmp_path: Path) -> None:
    part = Part("bank", "Exact kNN", toy=True, out=tmp_path)
    part.row(queries=1, ms=1.23456)
    part.row(queries=2, **{"images/s": 7})
    assert not part.attempt("faiss", lambda: 1 / 0)
    record = json.loads((tmp_path / "bank.json").read_text())
    assert (len(record["rows"]), record["complete"]) == (2, False)
    assert record["skipped"] == ["faiss: ZeroDivisionError: division by zero"]
    text = page(tmp_path)
    assert "stopped before its end" in text
    assert "| queries | ms | images/s |" in text
    assert "| 1 | 1.235 |  |" in text
    assert "- skipped faiss: ZeroDivisionError" in text
    part.write(complete=True)
    assert "stopped before its end" not in (tmp_path / "gpu.md").read_text()


def test_a_part_that_its_limit_stops_is_named(tmp_path: Path) -> None:
    """The interpreter is played by a script that takes too long."""
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    script = tmp_path / "benchmarks" / "gpu.sh"
    script.parent.mkdir()
    script.write_text(SCRIPT.read_text().replace("part bank 60", "part bank 1"))
    environment = {**os.environ, "OUT": str(tmp_path), "ONLY": "bank", "PYTHON": str(slow)}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "bank was stopped after 1 s; what it had measured is in" in done.stdout
