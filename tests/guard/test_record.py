"""Options that explain themselves: what is refused where it would not be read, and what is only a knob."""

from __future__ import annotations

from typing import Any

import pytest

from guard.errors import ConfigError
from guard.record import Record, knobs, option, parse_options
from guard.renamed import RENAMED


class Engine(Record):
    """The options of a part."""

    fuel: str = option("petrol", "What it burns.")
    octane: int = option(95, "Of the petrol.", read_if={"fuel": ("petrol", "blend")})
    spark: float = option(0.1, "Length of the spark in mm.", unread_if={"fuel": "diesel"})
    threads: int = option(1, "Pumps that work at once.", knob=True)


class Car(Record):
    """The options of the whole."""

    kind: str = option("car", "What drives.")
    engine: Engine = option(Engine(), "The engine.", read_if={"kind": "car"})
    windows: int = option(4, "Windows that open at once.", knob=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"engine": {"fuel": "diesel", "octane": 98}},
            "guard option engine: octane=98 is not read with fuel='diesel'; drop it, or give fuel='petrol' or 'blend'",
        ),
        (
            {"engine": {"fuel": "diesel", "spark": 0.2}},
            "guard option engine: spark=0.2 is not read with fuel='diesel'; drop it, or choose another fuel",
        ),
        (
            {"kind": "bicycle", "engine": {"threads": 2}},
            "guard: engine={'threads': 2} is not read with kind='bicycle'; drop it, or give kind='car'",
        ),
    ],
)
def test_an_option_that_is_not_read_is_refused_with_the_reason(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_options(Car, given, "guard")
    assert str(error.value) == sentence


def test_an_unread_option_at_its_default_is_no_mistake() -> None:
    given = {"kind": "bicycle", "engine": {"fuel": "petrol", "octane": 95}}
    assert parse_options(Car, given, "guard").engine == Engine()


def test_names_that_users_add_may_read_everything_that_is_not_excluded() -> None:
    assert parse_options(Car, {"engine": {"fuel": "mine", "spark": 0.2}}, "guard").engine.spark == 0.2


def test_knobs_are_found_in_nested_records() -> None:
    assert knobs(Car) == {"windows", "engine.threads"}


class Inner(Record):
    """A nested record."""

    model: str = option("style", "Which.")
    epochs: int = option(3, "Passes.")


class Outer(Record):
    """Its owner."""

    weight: float = option(0.1, "Of the loss.")
    pair: Inner = option(Inner(), "The pair.")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "pair_epochs",
            r"is now pair=\{'epochs': \.\.\.\} \(--set pair\.epochs=\.\.\.\)",
        ),  # a prefix that became a part
        ("finetune_weight", r"is now weight=\.\.\. \(--set weight=\.\.\.\)"),  # listed; the record has the second path
        ("pair_model", r"is now pair=\{'epochs'"),  # listed: comes before the prefix
    ],
)
def test_old_flat_names_are_refused_with_the_new_spelling(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "finetune_weight", ("tune.weight", "weight"))
    monkeypatch.setitem(RENAMED, "pair_model", "pair.epochs")
    with pytest.raises(ConfigError, match=f"method 'toy': option {old!r} {new}"):
        parse_options(Outer, {old: 1}, "method 'toy'")


def test_a_renamed_option_of_another_record_is_only_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "gone", "diffusion.gone")
    with pytest.raises(ConfigError, match="method 'toy' has no option 'gone'"):
        parse_options(Outer, {"gone": 1}, "method 'toy'")
