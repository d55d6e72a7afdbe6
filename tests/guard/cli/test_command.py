"""The ``guard`` command as a whole: help, errors, exit codes, and one run as a user types it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import guard
from guard import api, cli
from guard.cli import flags
from tests.guard.cli.conftest import ROOT, Command


def test_version_and_help(run: Command) -> None:
    assert run("--version").out == f"ood-guard {guard.__version__}\n"
    shown = run("--help").out
    for command in cli.COMMANDS:
        assert command in shown


def test_python_m_guard_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "guard", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"ood-guard {guard.__version__}\n")


def test_an_unknown_command_exits_with_2_and_names_a_near_one(run: Command) -> None:
    result = run("trian")
    assert result.code == 2
    assert "Did you mean 'train'" in result.err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_takes_debug_and_explains_its_options(name: str) -> None:
    parameters = inspect.signature(cli.COMMANDS[name], eval_str=True).parameters
    assert parameters["debug"].annotation == flags.Debug
    assert inspect.getdoc(cli.COMMANDS[name])
    for parameter in parameters.values():
        assert parameter.annotation.__metadata__[0].help, f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", ["train", "methods"])
def test_help_is_fast_because_it_loads_no_torch(name: str) -> None:
    code = f"""
import sys
from guard.cli import main
try:
    main([{name!r}, "--help"])
finally:
    loaded = {{"torch", "timm", "onnxruntime", "train", "export"}} & set(sys.modules)
    assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_an_error_is_one_line_on_stderr_and_exit_code_2(run: Command, tmp_path: Path) -> None:
    result = run("predict", tmp_path / "absent.onnx", "x.png")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: no such guard: {tmp_path / 'absent.onnx'}; ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("before", [True, False], ids=["guard --debug predict", "guard predict --debug"])
def test_debug_shows_the_traceback(run: Command, before: bool) -> None:
    words = ["predict", "absent.onnx", "x.png"]
    result = run(*(["--debug", *words] if before else [*words, "--debug"]))
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert "ArtefactNotFoundError: no such guard" in result.err


def test_an_interrupt_exits_with_130(run: Command, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load", interrupted)
    result = run("predict", model, "x.png")
    assert result.code == 130
    assert "Traceback" not in result.err


def test_train_predict_export_verify_on_digits(tmp_path: Path) -> None:
    """One small run through the real functions, as a user types it, in a folder of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "guard", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done.stdout

    size = ("--image-size", "8", "--epochs", "1", "--batch-size", "128")
    summary = json.loads(command("train", "digits", "--method", "plain", *size, "--json"))
    assert Path(tmp_path, summary["run"], "metrics.jsonl").exists()
    assert summary["calibration_images"] >= 400
    Image.effect_noise((8, 8), 200).save(tmp_path / "noise.png")
    (answer,) = json.loads(command("predict", "runs/latest/guard.onnx", "noise.png", "--json"))
    assert answer["threshold"] == pytest.approx(summary["threshold"])
    command("export", "runs/latest", "again.onnx", "--data", "digits")
    report = json.loads(command("verify", "again.onnx", "--against", "runs/latest", "--data", "digits", "--json"))
    assert report["flag_flips"] == 0
    assert report["images"] == 1797
