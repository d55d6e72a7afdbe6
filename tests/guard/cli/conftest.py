"""The command line in this process, and what it is asked about."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from guard import api, cli
from guard.artefact.files import write_onnx
from tests.serving.conftest import colour_graph, colour_manifest

ROOT = Path(__file__).parents[3]
Result = SimpleNamespace
Command = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """run("predict", ...) -> Result(code, out, err), in this process."""

    def call(*words: object) -> Result:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Result(code=end.value.code or 0, out=out, err=err)

    yield call
    logging.getLogger("ood_guard").handlers.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "colours.onnx"
    write_onnx(path, colour_graph(), colour_manifest())
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: red.png and deep/blue.jpg are in-distribution, black.png is not; notes.txt is not an image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "deep" / "blue.jpg", quality=100)
    Image.new("RGB", (8, 8), (0, 0, 0)).save(folder / "black.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Replaces the public functions by recorders with the same signatures; the working directory is a fresh one."""
    recorded: dict[str, dict[str, Any]] = {}
    made = SimpleNamespace(manifest=colour_manifest())

    def record(name: str, answer: Callable[..., Any]) -> None:
        original = getattr(api, name)

        @functools.wraps(original)
        def fake(*positional: Any, **named: Any) -> Any:
            bound = inspect.signature(original).bind(*positional, **named)
            recorded[name] = dict(bound.arguments)
            return answer(**bound.arguments)

        monkeypatch.setattr(api, name, fake)

    def make(out: Path, **_: Any) -> Any:
        Path(out).mkdir(parents=True, exist_ok=True)
        return made

    def written(path: Path, **_: Any) -> Path:
        Path(path).write_bytes(b"onnx")
        return Path(path)

    record("train", make)
    record("fit", make)
    record("export", written)
    record("calibrate", lambda **_: made)
    record("verify", lambda **_: colour_manifest().preprocess)
    record("evaluate", lambda **_: SimpleNamespace(to_dict=lambda: {"accuracy": float("nan")}, __str__=str))
    monkeypatch.chdir(tmp_path)
    return recorded
