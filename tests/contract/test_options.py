"""What every option must do, tested for each one of every method, synthesiser, score and head that is listed."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

import guard
import guard.heads
import guard.scores
import train
from guard.cli import cards
from guard.errors import ConfigError
from guard.heads import create_head, head_class, list_heads
from guard.record import Record, nested, option, parse_options, read_conditions, unread_conditions
from guard.scores import create_score, get_score, list_scores
from tests import toy_diffusion  # noqa: F401  (a registered diffusion model beside the built-in ones)
from tests.contract.option_reads import parts, unread
from train.methods import get_method, list_methods
from train.outliers.base import get_synthesiser, list_synthesisers

REGISTERED: dict[str, Any] = {
    **{f"method {name}": get_method(name) for name in list_methods()},
    **{f"synthesiser {name}": get_synthesiser(name) for name in list_synthesisers()},
    **{f"score {name}": get_score(name) for name in list_scores()},
    **{f"head {name}": head_class(name) for name in list_heads()},
}
BESIDE: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "method": (guard.train,),
    "synthesiser": (guard.synth, guard.train),  # a synthesiser's options are a method's, where it is made for one
    "score": (create_score,),
    "head": (create_head,),
}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_option_explains_itself_in_one_sentence(name: str) -> None:
    rows = [row for group in cards.option_rows(REGISTERED[name].Options).values() for row in group]
    for row in rows:
        assert row.description, f"{name}: option {row.path} is not described"
        assert row.description.endswith("."), f"{name}: the description of option {row.path} is not a sentence"


@pytest.mark.parametrize("name", REGISTERED)
def test_every_option_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, _, _ = name.partition(" ")
    cards.print_card(kind, REGISTERED[name])
    shown = capsys.readouterr().out.split()
    for record, prefix in paths(REGISTERED[name].Options):
        for n in set(record.model_fields) - set(nested(record)):
            assert prefix + n in shown


@pytest.mark.parametrize("name", REGISTERED)
def test_no_option_has_the_name_of_an_argument_of_the_function_that_takes_it(name: str) -> None:
    for function in BESIDE[name.partition(" ")[0]]:
        parameters = inspect.signature(function).parameters.values()
        own = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
        assert not own & set(REGISTERED[name].Options.model_fields), function.__name__


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", REGISTERED)
def test_no_option_is_infinite_or_no_number(name: str, number: float) -> None:
    for record, prefix in paths(REGISTERED[name].Options):
        for option_name, field in record.model_fields.items():
            if "float" not in str(field.annotation):
                continue
            given: Any = {option_name: (number, number) if "tuple" in str(field.annotation) else number}
            for part in reversed(prefix.split(".")[:-1]):
                given = {part: given}
            with pytest.raises(ConfigError):
                parse_options(REGISTERED[name].Options, given, name)


# ------------------------------------------------------------------------------------ what a variant does not read


def paths(record: type[Record], prefix: str = "") -> Iterator[tuple[type[Record], str]]:
    """A record and those nested in it, each with its path, ending in a dot, "" for the first."""
    yield record, prefix
    for name, kind in nested(record).items():
        yield from paths(kind, f"{prefix}{name}.")


def conditions(field: FieldInfo) -> dict[str, Any]:
    """The other options that decide whether an option is read, with the values that do."""
    return {**read_conditions(field), **unread_conditions(field)}


def conditional() -> Iterator[Any]:
    """(owner, Options, path to the record, record, option, the other option) of every condition that was declared."""
    for owner, registered in REGISTERED.items():
        for record, prefix in paths(registered.Options):
            for name, field in record.model_fields.items():
                for other in conditions(field):
                    yield pytest.param(owner, prefix, record, name, other, id=f"{owner}: {prefix}{name} by {other}")


def values(record: type[Record], name: str) -> list[Any]:
    """Values that an option accepts, its default first."""
    field = record.model_fields[name]
    default = field.get_default(call_default_factory=True)
    if name in nested(record):
        kind, own = nested(record)[name], [n for n, f in nested(record)[name].model_fields.items() if not conditions(f)]
        return [default, *({n: value} for n in own for value in values(kind, n)[1:])]
    kinds = get_args(field.annotation) if get_origin(field.annotation) is not Literal else (field.annotation,)
    tried: list[Any] = [
        default,
        True,
        False,
        1,
        2,
        3,
        8,
        0.5,
        0.25,
        1e-3,
        64,
        "x",
        "runs/x",
        ".",  # a folder that is there
        "{} x",
        (1.0, 2.0),
        ("a",),
    ]
    for kind in (field.annotation, *kinds):
        tried += get_args(kind) if get_origin(kind) is Literal else []
    if get_origin(field.annotation) is Union or type(None) in kinds:
        tried.append(None)
    if isinstance(default, tuple):
        tried += [default[:1], default[:2]]
    if "Mapping" in str(field.annotation):
        tried.append({"a": {}})
    for wanted in (conditions(f)[name] for f in record.model_fields.values() if name in conditions(f)):
        tried += wanted if isinstance(wanted, tuple) else [wanted]
    return [value for i, value in enumerate(tried) if accepted(record, name, value) and value not in tried[:i]]


def accepted(record: type[Record], name: str, value: Any) -> bool:
    """Whether the option takes the value; rules between options aside."""
    try:
        record.__pydantic_validator__.validate_assignment(record.model_construct(), name, value)
    except ValueError as error:
        return all(problem["loc"] == () for problem in getattr(error, "errors", list)())
    return True


def is_read(field: FieldInfo, other: str, value: Any) -> bool:
    """Whether an option is read where the other one has this value."""
    if other in read_conditions(field):
        condition = read_conditions(field)[other]
        return value in (condition if isinstance(condition, tuple) else (condition,))
    condition = unread_conditions(field)[other]
    return value not in (condition if isinstance(condition, tuple) else (condition,))


@pytest.mark.parametrize(("owner", "prefix", "record", "name", "other"), conditional())
def test_an_option_that_would_not_be_read_is_refused_with_the_reason(
    owner: str, prefix: str, record: type[Record], name: str, other: str
) -> None:
    field = record.model_fields[name]
    default, *others = values(record, name)
    assert others, f"no other value of {name} is known than {default!r}"
    where = [value for value in values(record, other) if not is_read(field, other, value)]
    assert where, f"{name} is read at every value of {other} that is known; then it needs no condition"
    sentences = []
    for value in where:
        given: Any = {name: others[0], other: value}
        for part in reversed(prefix.split(".")[:-1]):
            given = {part: given}
        with pytest.raises(ConfigError) as caught:
            parse_options(REGISTERED[owner].Options, given, owner)
        sentences.append(str(caught.value))
    assert any(f"{name}=" in s and f"is not read with {other}=" in s for s in sentences), sentences


# ------------------------------------------------------------------------------------------ every option is read


@functools.cache
def modules() -> tuple[ModuleType, ...]:
    """Whatever may read an option."""
    found: list[ModuleType] = []
    for package in (train, guard.scores, guard.heads):
        found.append(package)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            found.append(importlib.import_module(module.name))
    return tuple(found)


def test_every_option_is_read_somewhere() -> None:
    records = {registered.Options for registered in REGISTERED.values()}
    assert sum(len(kind.model_fields) for record in records for kind in parts(record)) > 300
    assert unread(records, modules()) == []


READER = """
from guard.record import Record, option, part


class Inner(Record):
    epochs: int = option(1, "Passes.")
    folder: str = option("", "Where.")


class Base(Record):
    weight: float = option(1.0, "Of the loss.")
    copied: int = option(1, "Handed on to another record.")
    epochs: int = option(1, "Passes, which nothing reads: those that are read are the context's and the part's.")
    never: int = option(1, "Validated, and not read.")
    inner: Inner = option(Inner(), "A part.")


class Copy(Record):
    copied: int = option(1, "Read.")


class Thing:
    Options = Base

    def run(self, context):
        o = self.options
        chosen = o.inner
        if context.never or context.never:
            self.steps = chosen.epochs * context.epochs
        return o.weight + Thing.use(part(o, Copy))

    @staticmethod
    def use(options: Copy):
        return options.copied
"""


def test_an_option_that_nothing_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something else of that name is read."""
    (tmp_path / "reader_of_options.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reader_of_options", raising=False)
    module = importlib.import_module("reader_of_options")
    assert unread([module.Base], [module]) == ["Base.epochs", "Base.never", "Inner.folder"]


class Fuel(Record):
    kind: Literal["petrol", "diesel"] = option("petrol", "What it burns.")
    octane: int = option(95, "Of the petrol.", read_if={"kind": "petrol"})


def test_the_tests_above_fail_for_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that is declared and not enforced, an option without words, and one with an argument's name."""

    class Careless(Record):
        alpha: float = option(0.5, "")

    monkeypatch.setitem(REGISTERED, "method careless", type("Careless", (), {"Options": Careless, "name": "careless"}))
    with pytest.raises(AssertionError, match="option alpha is not described"):
        test_every_option_explains_itself_in_one_sentence("method careless")
    with pytest.raises(AssertionError, match="train"):
        test_no_option_has_the_name_of_an_argument_of_the_function_that_takes_it("method careless")
    monkeypatch.setitem(REGISTERED, "method fuel", type("Car", (), {"Options": Fuel, "name": "fuel"}))
    test_an_option_that_would_not_be_read_is_refused_with_the_reason("method fuel", "", Fuel, "octane", "kind")
    monkeypatch.setattr("guard.record.changed", lambda *_: [])
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_an_option_that_would_not_be_read_is_refused_with_the_reason("method fuel", "", Fuel, "octane", "kind")
