"""Runs the blocks of one page in its folder: commands and Python in this process, a service in another."""

from __future__ import annotations

import doctest
import functools
import io
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import yaml
from typer.testing import CliRunner

import guard
from guard import cli
from serving.runner import running_service
from tests.documented import workspace
from tests.documented.blocks import Block
from tests.documented.budget import ARGUMENTS, arguments, lowered

HOST = "127.0.0.1:3000"  # in the pages


class Page:
    """A page's state between its blocks: a folder, Python's names, and a service once it was started."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text
        self.stack = ExitStack()
        self.address: str | None = None
        self.made: set[str] = set()
        self.names: dict[str, Any] | None = None

    def run(self, block: Block) -> None:
        """Run it, in the folder.

        Raises:
            AssertionError, Exception: it fails, or prints another thing than the page shows.
        """
        {"shell": self.command, "python": self.python, "data": self.data}[block.kind](block)

    def command(self, block: Block) -> None:
        for part in block.text.split(" && "):
            words = shlex.split(part, comments=True)
            environment: dict[str, str] = {}
            while "=" in words[0]:
                key, _, environment[key] = words.pop(0).partition("=")
            program = words[0]
            if program == "guard" and words[1] == "serve":
                self.serve(words[2])
            elif program == "bentoml":
                self.serve(environment["GUARD_MODEL"])
            elif program == "guard":
                self.guard(words[1], words[2:])
            elif program == "curl":
                self.curl(words[1:])
            else:
                raise AssertionError(f"nothing here runs {program!r}; say above the block why not")

    def guard(self, name: str, words: list[str]) -> None:
        flag = next((word for word in words if word in ("--out", "-o")), None)
        out = words[words.index(flag) + 1] if flag else None
        if out and out not in self.made:  # the page's own, in place of the one that is there
            shutil.rmtree(out, ignore_errors=True)
            self.made.add(out)
        words = lowered(name, words, exports=f"{out}/guard.onnx" in self.text)
        try:
            result = CliRunner().invoke(cli.app, [name, *words])
        finally:
            logging.getLogger("ood_guard").handlers.clear()
        assert result.exit_code == 0, f"guard {name} {shlex.join(words)}\n{result.output[-2000:]}{result.exception}"

    def serve(self, model: str) -> None:
        """Start it for the rest of the page; ``bentoml serve`` of the same model is the same service."""
        if self.address is None:
            self.address = self.stack.enter_context(running_service(model))

    def curl(self, words: list[str]) -> None:
        """A POST of a form, ``-F name=@file``."""
        assert self.address is not None
        form = words[words.index("-F") + 1]
        name, _, file = form.partition("=@")
        target = words[-1].replace(f"http://{HOST}", self.address)
        with httpx.Client(trust_env=False, timeout=30) as client:
            answer = client.post(target, files={name: Path(file).read_bytes()})
        assert answer.status_code == 200, answer.text

    def python(self, block: Block) -> None:
        if self.names is None:
            self.names = workspace.names()
        text = block.text
        if HOST in text:
            self.serve(workspace.EXPORTS[0])
            assert self.address is not None
            text = text.replace(HOST, self.address.removeprefix("http://"))
        with budget():
            if ">>> " in text:
                self.examples(text, same="guard.train(" not in text)
            else:
                exec(compile(text, str(block), "exec"), self.names)
        for name, (module, above) in workspace.MODULES.items():
            if f"def {name}(" in text:
                Path(module).write_text(above + text)

    def examples(self, text: str, *, same: bool) -> None:
        """Examples with ``>>>``: `same` asks for the answer that is shown, else for one of its form."""
        for example in doctest.DocTestParser().get_examples(text):
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(example.source, "<example>", "single"), self.names)
            shown = printed.getvalue()
            if example.want:
                alike = shown == example.want if same else form(shown) == form(example.want)
                assert alike, f"the page shows {example.want!r}, and it is {shown!r}"

    def data(self, block: Block) -> None:
        """YAML with a data set is a benchmark, whose plan is made; the rest is read."""
        if block.text.startswith("{"):
            json.loads(block.text)
            return
        keys = yaml.safe_load(block.text)
        if "data" in keys and "methods" in keys:
            Path("documented.yaml").write_text(block.text)
            self.guard("benchmark", ["documented.yaml"])

    def close(self) -> None:
        """End the service; forget the modules that were imported from its folder, whose names other tests use."""
        self.stack.close()
        for name, _ in workspace.MODULES.values():
            sys.modules.pop(Path(name).stem, None)


def form(shown: str) -> str:
    """The types of a printed tuple's parts."""
    import ast

    return str([type(part).__name__ for part in ast.literal_eval(shown)])


class budget:
    """While it lasts, ``guard.train`` and others take what `tests.documented.budget` lowers."""

    def __enter__(self) -> None:
        self.before = {name: getattr(guard, name) for name in ARGUMENTS}
        for name, function in self.before.items():
            setattr(guard, name, _lowered(name, function))

    def __exit__(self, *_: object) -> None:
        for name, function in self.before.items():
            setattr(guard, name, function)


def _lowered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*positional: Any, **named: Any) -> Any:
        return function(*positional, **arguments(name, named))

    return call
