"""A benchmark of digits: killed half way, started again by two processes at once, and equal to one that was not."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.errors import DivergedError
from guard.scores import create_score
from tests.train.benchmark.conftest import SMALL
from train.benchmark.results import read_scores
from train.benchmark.turns import turn

ROOT = Path(__file__).parents[3]
TIMED = ("train_seconds", "images_per_second", "bare_images_per_second", "speed_relative", "speed_low", "speed_high")
PLACES = [f"wrn10_2/{name}-s{seed}" for seed in (0, 1) for name in ("plain", "phase_mix")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a benchmark that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    guard.benchmark(SMALL, out=out)
    return out


def started(file: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "guard", "benchmark", str(file), "--out", str(out)]
        return subprocess.Popen(command, stderr=errors, stdout=subprocess.DEVNULL, env=environment, cwd=out)


def untimed(out: Path) -> list[dict[str, str]]:
    """The lines of results.csv without what was measured with a clock."""
    with (out / "results.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in TIMED} for row in csv.DictReader(file)]


def done_by(log: Path) -> list[str]:
    """The runs that a process did, by its log."""
    return re.findall(r"^benchmark: (.*)$", log.read_text(), re.MULTILINE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, "the benchmark ended"
        time.sleep(0.02)
    pytest.fail(f"{path} never came")


def test_killed_and_started_twice_at_once_it_ends_in_the_same_report(
    whole: Path, small_file: Path, tmp_path: Path
) -> None:
    out, logs = tmp_path / "out", [tmp_path / f"log{i}" for i in range(3)]
    out.mkdir()
    first = started(small_file, out, logs[0])
    wait_for(out / "runs" / PLACES[1] / "checkpoint.safetensors", first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"plain"}  # the first run was whole, the second was not
    assert not (out / "report.html").exists()

    both = [started(small_file, out, log) for log in logs[1:]]
    assert [process.wait(300) for process in both] == [0, 0], logs[1].read_text() + logs[2].read_text()
    done = [done_by(log) for log in logs[1:]]
    left = [*done_by(logs[0])[1:], "plain, wrn10_2, seed 1", "phase_mix, wrn10_2, seed 1"]
    assert sorted(done[0] + done[1]) == sorted(left)
    assert untimed(out) == untimed(whole)
    for name in PLACES:
        paths = [folder / "runs" / name / "guard.safetensors" for folder in (out, whole)]
        assert paths[0].read_bytes() == paths[1].read_bytes()

    report = {name: (out / name).read_bytes() for name in ("results.csv", "results.md", "report.html", "results.json")}
    shutil.rmtree(out / "runs")
    guard.benchmark(small_file, out=out)
    assert not (out / "runs").exists()  # nothing was trained, for every row is there
    assert report == {name: (out / name).read_bytes() for name in report}


def test_a_run_that_another_process_holds_is_left_to_it(whole: Path, small_file: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    shutil.copytree(whole, out)
    (out / "results.json").unlink()
    with turn(out / "locks" / "wrn10_2-phase_mix-s0.lock"):
        process = started(small_file, out, log)
        for _ in range(6000):
            rows = json.loads((out / "results.json").read_text())["rows"] if (out / "results.json").exists() else []
            if len(rows) == 6:
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        time.sleep(1)
        assert process.poll() is None  # it waits
        assert ("phase_mix", 0) not in {(row["method"], row["seed"]) for row in rows}
    assert process.wait(120) == 0
    assert done_by(log)[-1] == "phase_mix, wrn10_2, seed 0"
    assert untimed(out) == untimed(whole)


def test_changed_settings_measure_again_only_what_they_change(
    whole: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    from train.benchmark import benchmark

    asked: list[tuple[str, int, dict[str, list[str]]]] = []
    real = benchmark.measured

    def spied(plan: Any, run: Any, missing: Any) -> Any:
        asked.append((run.name, run.seed, dict(missing)))
        return real(plan, run, missing)

    monkeypatch.setattr(benchmark, "measured", spied)
    monkeypatch.setattr("train.benchmark.training.train", lambda _: pytest.fail("it trained"))
    small["ood"]["far"] = {"noise": "gaussian_noise", "even": "uniform_noise"}
    small["scores"] = ["energy", {"name": "knn", "k": 3}]
    small["seeds"] = [0]
    results = guard.benchmark(small, out=out)
    sets = ["digit 8", "noise", "even"]
    assert asked == [(name, 0, {"energy": ["even"], "knn (k=3)": sets}) for name in ("plain", "phase_mix")]
    before = {(r["method"], r["score"], r["seed"]): r for r in json.loads((whole / "results.json").read_text())["rows"]}
    for row in results.rows:
        assert list(row["ood"]) == sets
        if row["score"] == "energy":
            old = before[row["method"], "energy", 0]
            assert row["ood"]["noise"] == old["ood"]["noise"]
            assert row["ood"]["digit 8"] == old["ood"]["digit 8"]
    asked.clear()
    guard.benchmark(SMALL, out=out)  # back to what is there
    assert asked == []


def test_another_training_puts_the_old_one_aside_and_takes_it_back(
    whole: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    folder = out / "runs" / "wrn10_2"
    weights = (folder / "phase_mix-s0" / "guard.safetensors").read_bytes()
    small |= {"seeds": [0], "scores": ["energy"], "methods": {"plain": {}, "phase_mix": {"init": "plain", "weight": 9}}}
    guard.benchmark(small, out=out)
    assert (folder / "phase_mix-s0" / "guard.safetensors").read_bytes() != weights
    assert len(list(folder.glob("phase_mix-s0~*"))) == 1
    small |= {"methods": SMALL["methods"], "scores": ["energy", "msp"]}  # msp is new: the network is needed
    guard.benchmark(small, out=out)
    assert (folder / "phase_mix-s0" / "guard.safetensors").read_bytes() == weights


@pytest.mark.parametrize("error", [DivergedError("the loss is nan"), RuntimeError("out of memory")])
def test_what_is_measured_is_reported_before_an_error_that_names_its_run(
    error: Exception, whole: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "report.html").unlink()
    monkeypatch.setattr("train.benchmark.training.train", fails)
    small["methods"]["vos"] = {}
    with pytest.raises(type(error)) as caught:
        guard.benchmark(small, out=out)
    assert "vos, wrn10_2, seed 0" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "phase_mix" in (out / "report.html").read_text()


def test_the_numbers_are_those_of_the_guard(whole: Path, small: dict[str, Any], tmp_path: Path) -> None:
    """The score that guard.train fitted itself, and its threshold, against the row measured for it."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    small |= {"seeds": [0], "scores": ["own"], "max_images": None}
    results = guard.benchmark(small, out=out)
    row = next(row for row in results.rows if row["method"] == "phase_mix")
    assert row["score"] == "energy+vim"
    g = guard.load(out / "runs" / "wrn10_2" / "phase_mix-s0", device="cpu")
    found = guard.evaluate(g, id="digits:0-2", ood={"digit 8": "digits:8-9"}, bootstrap=0)
    assert row["accuracy"] == pytest.approx(found.id.accuracy)
    assert row["false_alarm_rate"] == pytest.approx(found.id.false_alarm_rate)
    for name in ("auroc", "aupr_in", "aupr_out", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr"):
        assert row["ood"]["digit 8"][name] == pytest.approx(getattr(found.ood[0].metrics, name), abs=1e-6)
    assert row["ood"]["digit 8"]["flagged"] == pytest.approx(found.ood[0].flagged)
    kept = read_scores(out, row)
    np.testing.assert_allclose(kept["digit 8"], found.ood[0].verdicts.ood_score, rtol=1e-4)
    np.testing.assert_allclose(kept[""], found.id.verdicts.ood_score, rtol=1e-4, atol=1e-5)


def test_scores_of_layers_and_gradients_and_another_library(whole: Path, small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    small |= {"seeds": [0], "methods": {"plain": {}}, "scores": ["gram", "odin", "knn", "vim", "energy"]}
    results = guard.benchmark({**small, "compare": "pytorch-ood"}, out=out)
    rows = {row["score"]: row["ood"]["digit 8"] for row in results.rows}
    for name in ("knn", "vim", "energy"):
        assert rows[name]["theirs"]["auroc"] == pytest.approx(rows[name]["auroc"], abs=2e-3)
    assert "theirs" not in rows["gram"]
    g = guard.fit(out / "runs" / "wrn10_2" / "plain-s0", "digits:0-2", score="gram", device="cpu")
    assert create_score("gram").needs != ("logits",)
    found = guard.evaluate(g, id="digits:0-2", ood={"digit 8": "digits:8-9"}, bootstrap=0, max_images=None)
    kept = read_scores(out, next(row for row in results.rows if row["score"] == "gram"))
    assert set(np.round(kept[""], 3)) <= set(np.round(found.id.verdicts.ood_score, 3))


def test_a_guard_that_looks_at_mirror_images_is_measured_as_such(
    whole: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    """Its labels too, which are not the network's own."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    mirrored = {"name": "energy", "mirror": True, "label": "energy, mirror"}
    small |= {"scores": ["energy", mirrored], "max_images": None}
    rows = {(row["method"], row["seed"], row["score"]): row for row in guard.benchmark(small, out=out).rows}
    run, held_out = out / "runs" / "wrn10_2" / "plain-s0", {"calibration": 60, "test": 60, "device": "cpu"}
    for label, mirror in (("energy", False), ("energy, mirror", True)):
        g = guard.fit(run, "digits:0-2", score="energy", score_options={"mirror": mirror}, **held_out)
        found = guard.evaluate(g, id="digits:0-2", ood={"digit 8": "digits:8-9"}, bootstrap=0)
        row = rows["plain", 0, label]
        assert row["accuracy"] == pytest.approx(found.id.accuracy)
        assert row["ood"]["digit 8"]["auroc"] == pytest.approx(found.ood[0].metrics.auroc, abs=1e-6)
    runs = {(method, seed) for method, seed, _ in rows}
    assert any(rows[*of, "energy"]["accuracy"] != rows[*of, "energy, mirror"]["accuracy"] for of in runs)
