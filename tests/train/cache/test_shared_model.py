"""What runs share by a folder: one trains at a time, and a killed one stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import guard
from train.cache.shared_model import found_or_trained

HOLDS = """
import sys, time
from pathlib import Path
from train.cache.shared_model import _alone

with _alone(Path(sys.argv[1]), "pair"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_leaves_no_lock_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(guard.__file__).parents[1], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said: list[object] = []

        def waits(*words: object) -> None:
            said.extend(words)
            other.kill()

        with monkeypatch.context() as patch:
            patch.setattr("train.cache.shared_model.log.info", waits)
            made = found_or_trained(tmp_path, "pair", lambda: None, lambda: nn.Linear(1, 1))
        other.kill()
    assert said == ["waiting for another run that trains the %s in %s", "pair", tmp_path]
    assert isinstance(made, nn.Linear)
    caplog.set_level("INFO", "ood_guard")
    found_or_trained(tmp_path, "pair", lambda: None, lambda: nn.Linear(1, 1))
    assert "waiting" not in caplog.text


def test_what_is_there_needs_no_lock(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    assert found_or_trained(tmp_path / "none", "pair", lambda: model, lambda: pytest.fail("trained")) is model
    assert not (tmp_path / "none").exists()


def test_a_failed_training_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            found_or_trained(tmp_path, "pair", lambda: None, lambda: nn.Linear(1 // 0, 1))


def test_file_systems_without_locks_are_trained_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("train.cache.shared_model.FileLock.acquire", refuse)
    model = nn.Linear(1, 1)
    assert found_or_trained(tmp_path, "pair", lambda: None, lambda: model) is model
    assert "cannot be locked ([Errno 37] No locks available): train the pair there in one run at a time" in caplog.text
