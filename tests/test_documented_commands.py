"""Every ``guard ...`` line in the README and the docs is one that the command line takes, options included."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from guard import cli
from guard.cli.arguments import settings
from guard.heads import head_class
from guard.record import parse_options
from guard.requests import TrainRequest
from guard.scores import create_score
from tests import toy_diffusion  # noqa: F401  (registers a diffusion model)
from train.methods import get_method
from train.outliers.base import get_synthesiser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[str]:
    """The lines of code blocks, and of inline code, that begin with ``guard`` and a command."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    names = "|".join(cli.COMMANDS)
    for line in text.splitlines():
        shown = re.match(rf"(?:    |\$ )?(guard (?:{names})\b.*)$", line)
        if shown:
            yield shown.group(1)
    for inline in re.findall(rf"`(guard (?:{names})\b[^`]*)`", text):
        if " --" in inline and "..." not in inline and not inline.split()[2].startswith("--"):
            yield " ".join(inline.split())


DOCUMENTED = [pytest.param(command, id=f"{page.name}: {command[:90]}") for page in PAGES for command in commands(page)]


def test_there_are_documented_commands() -> None:
    assert len(DOCUMENTED) > 50


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_taken(command: str) -> None:
    _, name, *words = shlex.split(command, comments=True)
    parsed = typer.main.get_command(cli.app).commands[name].make_context(name, words).params  # type: ignore[attr-defined]
    check_options(name, parsed)


def check_options(name: str, parsed: dict[str, Any]) -> None:
    """Whether the method, score and head that were named have the options that were given."""
    if name in ("train", "synth"):
        kind = get_method(parsed["method"]) if name == "train" else get_synthesiser(parsed["method"])
        parse_options(
            kind.Options,
            settings(parsed.get("options") or (), beside=dict.fromkeys(TrainRequest.model_fields, "")),
            command_name(parsed),
        )
    if name == "train" and parsed.get("head"):
        parse_options(head_class(parsed["head"]).Options, settings(parsed.get("head_options") or ()), "head")
    if name in ("train", "fit") and parsed.get("score"):
        create_score(parsed["score"], **settings(parsed.get("score_options") or (), flag="--score-set"))
    if name in ("methods", "synthesisers") and "*" not in parsed["pattern"]:
        (get_method if name == "methods" else get_synthesiser)(parsed["pattern"])


def command_name(parsed: dict[str, Any]) -> str:
    return f"method {parsed['method']!r}"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("guard train PATH --method vos --set wieght=1", "has no option 'wieght'"),
        ("guard train PATH --head arcface --head-set angle=1", "has no option 'angle'"),
        ("guard fit PATH --model M --score knn --score-set kk=1", "has no option 'kk'"),
        ("guard train PATH --method vso", "unknown method 'vso'"),
        ("guard train PATH --mehtod vos", "mehtod"),
    ],
)
def test_a_command_that_is_wrong_would_be_found(command: str, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        test_a_documented_command_is_taken(command)
