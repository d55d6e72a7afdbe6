"""Flags that are generated from a request: name, type, default and help come from its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from guard.cli import app
from guard.cli.flags import SPLIT, Debug, Flag, from_request, settings_flag
from guard.errors import ConfigError
from guard.record import option
from guard.requests import Request, SynthRequest, TrainRequest


class Toy(Request):
    function = "guard.toy"
    data: Any = option(..., "What it is about.")
    batch_size: int = option(4, "Images per step.", ge=1, rule="must be at least 1")
    lr: float | None = option(None, "Peak learning rate.")
    out: Path | None = option(None, "Folder.")
    kind: Literal["a", "b"] = option("a", "a or b.")
    quick: bool = option(False, "Be quick.")
    gallery: bool = option(True, "A gallery.")
    options: dict[str, Any] = option({}, "Options.")


seen: list[Toy] = []


@from_request(Toy, data=Flag(positional=True), options=settings_flag("--set"))
def toy(asked: Toy, debug: Debug = False) -> None:
    """Play."""
    seen.append(asked)


def typed(*words: str) -> Toy:
    app = typer.Typer()
    app.command()(toy)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen.pop()


def test_what_is_not_typed_has_the_fields_default() -> None:
    assert typed("x") == Toy(data="x")


def test_every_type_is_parsed() -> None:
    words = ("--batch-size", "8", "--lr", "0.5", "--out", "runs/a", "--kind", "b", "--quick", "--no-gallery")
    asked = typed("x", *words, "--set", "pair.epochs=3", "--set", "weight=0.5")
    assert asked == Toy(
        data="x", batch_size=8, lr=0.5, out=Path("runs/a"), kind="b", quick=True, gallery=False,
        options={"pair": {"epochs": 3}, "weight": 0.5},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--batch-size", "0"), "batch_size must be at least 1, got 0"),
        (("--kind", "c"), "guard.toy option kind: Input should be 'a' or 'b', got 'c'"),
        (("--set", "lr=3"), "lr is not an option of the method or score; use --lr"),
    ],
)
def test_what_is_refused_is_refused_in_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        typed("x", *words)


def test_help_is_the_description() -> None:
    shown = {n: p.annotation.__metadata__[0].help for n, p in inspect.signature(toy).parameters.items()}
    assert shown["batch_size"] == "Images per step."
    assert shown["options"] == "Options. Repeatable."
    assert shown["gallery"] == "Not: A gallery."


def test_own_fields_come_before_inherited_ones() -> None:
    class Longer(Toy):
        extra: int = option(0, "More.")

    decorate: Callable[[Any], Any] = from_request(Longer, data=Flag(), options=Flag())
    names = list(inspect.signature(decorate(lambda asked: None)).parameters)
    assert names[:2] == ["extra", "data"]


def test_a_field_whose_flag_does_not_follow_from_its_type_must_have_one() -> None:
    with pytest.raises(TypeError, match="the flag of data does not follow from"):
        from_request(Toy)(lambda asked: None)


@pytest.mark.parametrize(("command", "request_"), [("train", TrainRequest), ("synth", SynthRequest)])
def test_what_set_does_not_take_is_typed_as_it_says(command: str, request_: type[Request]) -> None:
    """The advice names flags or arguments that the command has."""
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    flags = {flag for parameter in parameters for flag in parameter.opts if flag.startswith("-")}
    arguments = {parameter.metavar for parameter in parameters if parameter.param_type_name == "argument"}
    for name in request_.model_fields.keys() - {"options"}:
        words = [command, "x", "--method", "strokes", "--out", "y", "--set", f"{name}=1"]
        refused = CliRunner().invoke(app, words).exception
        assert isinstance(refused, ConfigError), name
        way = str(refused).partition("is not an option of the method or score; use ")[2].split()
        named = {word.rstrip(",") for word in way} & (flags | arguments)
        assert named, str(refused)
        assert {word.rstrip(",") for word in way if word.startswith("-")} <= flags, str(refused)


def test_a_set_of_images_may_be_called_by_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = SPLIT.convert("50")
    assert TrainRequest(data="digits", calibration=given).calibration == 50
    (tmp_path / "50").mkdir()
    assert TrainRequest(data="digits", calibration=given).calibration == "50"
