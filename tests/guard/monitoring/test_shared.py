from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from guard.errors import DataError
from guard.monitoring.monitor import DriftMonitor
from guard.monitoring.report import DriftReport
from guard.monitoring.shared import RING, SharedMonitor

ROOT = Path(__file__).parents[3]
REFERENCE = np.random.default_rng(0).normal(size=200)

WRITER = """
import sys, numpy as np
from tests.guard.monitoring.test_shared import opened
shared, rows = opened(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for i in range(rows):
    shared.add(np.full(3, i / 50.0), labels=np.array([0, 1, 1]), flagged=np.array([True, False, False]))
    if i % 7 == 0:
        shared.take()
    print(i + 1, flush=True)
"""


def fresh(alpha: float = 0.01) -> DriftMonitor:
    return DriftMonitor(REFERENCE, alpha=alpha, class_names=("cat", "dog"), model="m@1")


def opened(path: Path | str) -> SharedMonitor:
    return SharedMonitor(path, fresh())


def writer(path: Path, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(rows)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})


def without_times(report: DriftReport) -> DriftReport:
    curve = tuple(p.model_copy(update={"time": 0.0}) for p in report.curve)
    return report.model_copy(update={"started": 0.0, "updated": 0.0, "alarm_time": None, "curve": curve})


def test_it_says_what_a_monitor_of_its_own_says(tmp_path: Path) -> None:
    scores = np.random.default_rng(1).normal(size=2 * RING + 500).astype(np.float32)
    shared, own = opened(tmp_path / "a.drift"), fresh()
    labels, flags = np.arange(len(scores)) % 2, scores > 2
    for i in range(20):
        shared.add_one(float(scores[i]), int(labels[i]), bool(flags[i]))
    for start, end in ((20, 21), (21, 40), (40, 2 * RING + 100), (2 * RING + 100, len(scores))):
        part = slice(start, end)
        shared.add(scores[part], labels=labels[part], flagged=flags[part])
    found, expected = shared.report(), own.update(scores, labels=labels, flagged=flags)
    assert (found.images, found.classes) == (len(scores), expected.classes)
    assert found.log10_capital == pytest.approx(expected.log10_capital, rel=1e-9)
    assert found.log10_largest == pytest.approx(expected.log10_largest, rel=1e-9)
    assert without_times(opened(tmp_path / "a.drift").report()) == without_times(found)


def test_processes_add_up_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.drift"
    processes = [writer(path, 150) for _ in range(3)]
    here = opened(path)
    for _ in range(20):
        here.add(np.zeros(1), labels=np.zeros(1), flagged=np.zeros(1, bool))
        here.report()
    assert [p.communicate(timeout=60) and p.returncode for p in processes] == [0, 0, 0]
    report = here.report()
    assert (report.images, report.flagged) == (3 * 150 * 3 + 20, 450)
    assert [c.images for c in report.classes] == [450 + 20, 900]


def test_a_process_that_is_killed_loses_nothing_that_it_counted(tmp_path: Path) -> None:
    """Killed at four moments: what it said it had counted is there, and the file is sound."""
    path, counted = tmp_path / "a.drift", 0
    for pause in (0.0, 0.013, 0.031, 0.067):
        process = writer(path, 10**6)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        said = [line for line in process.communicate()[0].splitlines(keepends=False) if line]
        before, counted = counted, opened(path).report().images
        whole = [int(line) for line in said[:-1]]
        assert counted - before >= 3 * max(whole, default=0)
        assert (counted - before) % 3 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.drift"]  # nothing was set aside
    opened(path).add(np.zeros(2), labels=np.zeros(2), flagged=np.zeros(2, bool))
    assert opened(path).report().images == counted + 2


def damage(data: bytes, how: str) -> bytes:
    at = {"state": len(data) - RING * 8 - 5, "magic": 3, "what is watched": 20, "active": 48}
    if how == "cut":
        return data[:-1]
    if how == "empty":
        return b""
    changed = bytearray(data)
    for place in [at[how], 64 + 16 + 50] if how == "state" else [at[how]]:
        changed[place] ^= 0x55
    return bytes(changed)


@pytest.mark.parametrize("how", ["cut", "empty", "state", "magic", "what is watched", "active"])
def test_a_damaged_file_is_set_aside(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.drift"
    shared = opened(path)
    shared.add(np.zeros(5), labels=np.zeros(5), flagged=np.zeros(5, bool))
    shared.take()
    bad = damage(path.read_bytes(), how)
    path.write_bytes(bad)
    assert opened(path).report().images == 0
    (aside,) = tmp_path.glob("a.drift.damaged-*")
    assert aside.read_bytes() == bad
    assert "set aside" in caplog.text


def test_single_images_fill_the_ring_too(tmp_path: Path) -> None:
    shared = opened(tmp_path / "a.drift")
    for i in range(RING + 10):
        shared.add_one(i / RING, i % 2, i % 4 == 0)
    report = shared.report()
    assert (report.images, report.flagged) == (RING + 10, len(range(0, RING + 10, 4)))


def test_another_alpha_is_another_test(tmp_path: Path) -> None:
    path = tmp_path / "a.drift"
    opened(path).add(np.zeros(5), labels=np.zeros(5), flagged=np.zeros(5, bool))
    assert SharedMonitor(path, fresh(alpha=0.05)).report().images == 0
    assert len(list(tmp_path.glob("a.drift.damaged-*"))) == 1


def test_a_reset_is_everybodys(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "a.drift"), opened(tmp_path / "a.drift")
    one.add(np.zeros(5), labels=np.zeros(5), flagged=np.zeros(5, bool))
    assert other.reset().resets == 1
    assert (one.report().images, one.report().resets) == (0, 1)
    one.add(np.zeros(2), labels=np.zeros(2), flagged=np.zeros(2, bool))
    assert other.report().images == 2


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        opened(tmp_path / "file" / "a.drift")
