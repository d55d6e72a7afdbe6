"""``guard methods``, ``scores`` and ``heads``: what is listed and how options are shown."""

from __future__ import annotations

import json
from typing import Literal

import pytest

import guard
from guard.cli import cards
from guard.record import Record, option
from tests.guard.cli.conftest import Command


def test_methods_lists_every_method_with_a_line(run: Command) -> None:
    listed = json.loads(run("methods", "--json").out)
    assert [m["name"] for m in listed] == guard.list_methods()
    assert all(m["summary"] for m in listed)
    assert "vos" in run("methods").out


def test_a_pattern_filters(run: Command) -> None:
    assert [m["name"] for m in json.loads(run("methods", "*o*", "--json").out)] == guard.list_methods("*o*")
    assert [s["name"] for s in json.loads(run("scores", "m*", "--json").out)] == guard.list_scores("m*")
    assert [h["name"] for h in json.loads(run("heads", "*face", "--json").out)] == ["arcface", "cosface", "sphereface"]


def test_scores_prints_what_each_needs_and_whether_a_model_can_have_it(run: Command) -> None:
    lines = run("scores", "[vo]*").out.splitlines()  # odin, vim
    assert lines[0].split() == ["score", "ood_score", "needs", "fit", "exports"]
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == ["odin", "vim"]
    (vim,) = json.loads(run("scores", "vim", "--model", "resnet18", "--json").out)
    assert (vim["applies"], vim["why_not"], vim["exports"]) == (True, "", True)
    assert vim["needs"] == ["logits", "features", "weights"]
    shown = run("scores", "energy_logistic", "--model", "resnet18").out
    assert "no: is learned in training; use guard.train(..., method='vos')" in " ".join(shown.split())
    assert "did you mean 'vim'" in run("scores", "vimm", "--model", "resnet18").err


def test_a_name_shows_the_options_with_their_defaults(run: Command) -> None:
    from train.methods import get_method

    card = json.loads(run("methods", "vos", "--json").out)
    defaults = {name: field.default for name, field in get_method("vos").Options.model_fields.items()}
    assert {name: option["default"] for name, option in card["options"].items()} == defaults
    shown = run("methods", "vos").out
    assert all(name in shown for name in defaults)
    assert json.loads(run("scores", "knn", "--json").out)["options"]["k"]["default"] == 50
    assert "mirror" in run("scores", "max_logit").out
    assert "no options" in run("methods", "plain").out
    assert json.loads(run("heads", "arcface", "--json").out)["options"]["margin"]["default"] == 0.5
    assert "--head-set" in run("heads", "arcface").out


def test_types_are_shown_without_their_limits(run: Command) -> None:
    assert "tuple[float, ...]" in run("methods", "dream_ood").out


@pytest.mark.parametrize(
    ("command", "typo", "near"),
    [("methods", "voss", "vos"), ("scores", "enrgy", "energy"), ("heads", "cosin", "cosine")],
)
def test_an_unknown_name_shows_near_matches(run: Command, command: str, typo: str, near: str) -> None:
    result = run(command, typo)
    assert result.code == 2
    assert f"{typo!r}; did you mean {near!r}" in result.err


class Part(Record):
    """A part with options of its own."""

    epochs: int = option(3, "Passes over the data.", ge=1)
    folder: str | None = option(None, "Where it is kept.", common=True)


class Whole(Record):
    """A record with a part, whose defaults are not the part's own."""

    kind: Literal["a", "b"] = option("a", "Which.")
    weight: float = option(0.1, "Of the loss.", gt=0, lt=1, read_if={"kind": ("a", "c")}, common=True)
    part: Part = option(Part(epochs=5), "The part.")
    width: int = option(8, "Units.", multiple_of=8, unread_if={"kind": "b"})


def test_options_are_grouped_by_part_the_common_ones_first() -> None:
    groups = cards.option_rows(Whole)
    assert {part: [row.path for row in rows] for part, rows in groups.items()} == {
        "": ["weight", "kind", "width"],
        "part": ["part.folder", "part.epochs"],
    }
    weight, kind, width = groups[""]
    assert (weight.type, weight.range, weight.common) == ("float", "above 0, below 1", True)
    assert weight.only_with == "kind='a' or 'c'"
    assert (kind.type, kind.default, kind.description) == ("'a' | 'b'", "a", "Which.")
    assert (width.range, width.only_with) == ("a multiple of 8", "kind other than 'b'")
    folder, epochs = groups["part"]
    assert (folder.type, folder.default) == ("str | None", None)
    assert (epochs.default, epochs.range) == (5, "at least 1")


def test_people_read_a_table_per_part(capsys: pytest.CaptureFixture[str]) -> None:
    registered = type("Thing", (), {"name": "thing", "__doc__": "What it is.", "Options": Whole})
    cards.print_card("method", registered)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(
        "method thing What it is. --set default type range meaning weight 0.1 float above 0, below 1"
    )
    assert "Of the loss. Only with kind='a' or 'c'." in shown
    assert "part: A part with options of its own. --set default type range meaning part.folder null" in shown
    cards.print_card("score", registered)
    assert "--score-set" in capsys.readouterr().out


def test_programs_read_options_by_path() -> None:
    registered = type("Thing", (), {"name": "thing", "__doc__": "What it is.", "Options": Whole})
    card = cards.card(registered)
    assert list(card["options"]) == ["weight", "kind", "width", "part.folder", "part.epochs"]
    assert card["options"]["part.epochs"] == {
        "type": "int",
        "default": 5,
        "range": "at least 1",
        "description": "Passes over the data.",
        "common": False,
        "only_with": "",
    }
