"""Two processes train as one does at equal global batch: every loss, every weight, every statistic.

In single precision at a small learning rate: at a usual one rounding grows hundredfold in each of the first steps, and
one process does not even repeat itself to 1e-2 when the rows of its batches are reversed. The slow tests train as
usual, in double precision, where that stays far below any mistake.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import guard
from guard.cli import runs
from guard.errors import ConfigError
from tests.conftest import DIFFUSION, PAIR, RECIPES, Arrays
from train.engine.distributed import Processes, alone, processes
from train.engine.divided import bounds, check_divides

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("together.py")
QUICK = ("plain", "vos", "npos", "oe", "dmr", "dream_ood")
LOSS, WEIGHTS = 1e-5, 1e-4
EXACT = 1e-9


def run(*arguments: object, processes: int = 1, fails: bool = False) -> None:
    """together.py in so many processes."""
    launched(str(SCRIPT), *map(str, arguments), processes=processes, fails=fails)


def launched(*command: str, processes: int, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """A Python command in so many processes."""
    launcher: list[str] = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    done = subprocess.run(
        [sys.executable, *launcher, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert (done.returncode != 0) == fails, done.stderr[-4000:]
    return done


def assert_same(one: Path, two: Path, loss: float = LOSS, weights: float = WEIGHTS) -> None:
    """Losses, those after the first 20 steps less exactly; weights, batch-norm statistics, what the score learned, the
    calibrated threshold. Rounding differs with the number of processes, and grows from step to step."""
    first, second = (json.loads((folder / "losses.json").read_text()) for folder in (one, two))
    assert len(first) == len(second) >= 20
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert b == pytest.approx(a, abs=loss if step < 20 else 3 * loss), f"step {step}"
    assert_same_weights(one, two, weights)


def assert_same_weights(one: Path, two: Path, most: float = WEIGHTS) -> None:
    first, second = (load_file(folder / "guard.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        difference = (second[name].double() - value.double()).abs()
        assert not value.numel() or difference.max() <= most, name
    a, b = (guard.Guard.from_pretrained(folder, device="cpu") for folder in (one, two))
    assert b.threshold == pytest.approx(a.threshold, abs=10 * WEIGHTS)
    assert b.manifest.metrics == pytest.approx(a.manifest.metrics, abs=WEIGHTS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Options: a small learning rate, and generators that are trained once. What they decode is rounded to pixels."""
    folder = tmp_path_factory.mktemp("shared")
    dmr = {"pair": {**PAIR["pair"], "folder": str(folder / "pair")}}
    dream = {"diffusion": {**DIFFUSION, "folder": str(folder / "diffusion")}}
    return json.dumps({"": {"lr": 1e-4}, "dmr": dmr, "dream_ood": dream})


@pytest.fixture(scope="module")
def one(shared: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the runs of one process."""
    folder = tmp_path_factory.mktemp("one")
    run("train", folder, ",".join(QUICK), shared)
    return folder


@pytest.fixture(scope="module")
def two(one: Path, shared: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And of two."""
    folder = tmp_path_factory.mktemp("two")
    run("train", folder, ",".join(QUICK), shared, processes=2)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_train_as_one(name: str, one: Path, two: Path) -> None:
    assert_same(one / name, two / name)


# gcos draws eigenvectors of a covariance of fewer features than it has directions: which ones, rounding decides
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"gcos"}))
def test_two_processes_train_every_method_as_one(name: str, tmp_path: Path) -> None:
    run("exact", tmp_path / "one", name, "{}")
    run("exact", tmp_path / "two", name, "{}", processes=2)
    assert_same(tmp_path / "one" / name, tmp_path / "two" / name, EXACT, EXACT)


def test_a_run_of_two_that_was_killed_is_continued_by_one(one: Path, tmp_path: Path) -> None:
    asked = {"lr": 1e-4}
    run("kill", tmp_path, "vos", json.dumps({"": asked}), processes=2, fails=True)  # nobody waits for the dead
    assert len((tmp_path / "vos" / "metrics.jsonl").read_text().splitlines()) == 2
    run("train", tmp_path, "vos", json.dumps({"": {**asked, "resume": True}}))
    assert_same_weights(one / "vos", tmp_path / "vos")


def test_the_command_line_speaks_once(tmp_path: Path) -> None:
    asked = ["digits:0-3", "--backbone", "wrn10_2", "--epochs", "1", "--device", "cpu", "--no-export", "--json"]
    done = launched("-m", "guard", "train", *asked, "--out", str(tmp_path / "run"), processes=2)
    assert json.loads(done.stdout)["method"] == "plain"
    assert done.stderr.count("classifier 1/1") == 1
    assert guard.Guard.from_pretrained(tmp_path / "run", device="cpu").threshold is not None


def test_two_processes_make_the_store_of_one(tmp_path: Path) -> None:
    run("store", tmp_path / "one")
    run("store", tmp_path / "two", processes=2)
    first, second = (sorted((tmp_path / name).glob("*.parquet")) for name in ("one", "two"))
    assert len(first) == 7
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_gradients_are_those_of_the_whole_batch_however_it_is_divided(tmp_path: Path) -> None:
    run("divided", tmp_path / "found.json", processes=3)
    for rows, differences in json.loads((tmp_path / "found.json").read_text()).items():
        assert differences == pytest.approx(dict.fromkeys(differences, 0), abs=1e-12), rows


@pytest.mark.parametrize(("n", "world"), [(7, 3), (6, 3), (3, 3), (10, 4)])
def test_rows_are_divided_evenly_in_order(n: int, world: int) -> None:
    parts = [list(range(n))[bounds(n, Processes(rank, world))] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_nobody_is_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # nobody answers, so joining would wait
    with alone():
        assert processes() == Processes(0, 1)


def test_a_folder_is_named_for_several(four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes write one folder, which all of them see; name it with --out"):
        runs.run_folder(None, "vos")
    monkeypatch.setattr("train.runs.train.processes", lambda: Processes(0, 2))
    with pytest.raises(ConfigError, match="2 processes train one guard in a folder that all of them see; name it"):
        guard.train(four, **tiny)


def test_a_batch_has_an_image_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.divided.processes", lambda: Processes(0, 4))
    check_divides(4)
    with pytest.raises(ConfigError, match="a batch of 3 images cannot be divided between 4 processes; launch at"):
        check_divides(3)
