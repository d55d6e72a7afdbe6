"""Paths that users give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError
from guard.paths import path_given
from guard.requests import BenchmarkRequest, FitRequest
from serving.settings import read_settings
from train.benchmark import file


def fitted_into(path: str) -> Path | None:
    with FitRequest.checked():
        return FitRequest(model="resnet18", data="digits", out=path).out


HOME: list[Callable[[str], Any]] = [
    path_given,
    lambda path: fitted_into(path),
    lambda path: read_settings(model=path).model,
    lambda path: read_settings(keep_flagged=path).keep_flagged,
    lambda path: read_settings(drift_folder=path).drift_folder,
    lambda path: read_settings(models=f"cats={path}").model_paths()["cats"],
    lambda path: Path(file.read(BenchmarkRequest(file={**FILE, "out": path}))[0].out),
    lambda path: file.read(BenchmarkRequest(file={**FILE, "root": path}))[1],
]
FILE = {"data": "digits", "ood": {"far": {"noise": "noise"}}, "methods": {"plain": {}}}


@pytest.mark.parametrize("opened", HOME)
def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    opened: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("~/here") == tmp_path / "here"
    with pytest.raises(
        ConfigError, match="this machine has no home folder for '~nobody-here'; give the path from / on"
    ):
        opened("~nobody-here/there")
