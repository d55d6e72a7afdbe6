"""The public surface is a list; changing it is a decision, made here."""

from __future__ import annotations

import inspect

import pytest

import guard

FUNCTIONS = {
    "bench",
    "benchmark",
    "calibrate",
    "create_score",
    "evaluate",
    "export",
    "fit",
    "list_methods",
    "list_scores",
    "load",
    "plan_benchmark",
    "register_score",
    "scan",
    "synth",
    "train",
    "verify",
}
TYPES = {"AsyncClient", "Client", "DriftMonitor", "Guard", "Verdict", "Verdicts"}


def test_the_public_names_are_these() -> None:
    assert set(guard.__all__) == FUNCTIONS | TYPES | {"errors"}
    assert list(guard.__all__) == sorted(guard.__all__)


def test_what_is_public_can_be_had() -> None:
    assert all(inspect.isfunction(getattr(guard, name)) for name in FUNCTIONS)
    assert all(inspect.isclass(getattr(guard, name)) for name in TYPES)
    assert inspect.ismodule(guard.errors)


@pytest.mark.parametrize("name", sorted(FUNCTIONS | TYPES))
def test_what_is_public_is_documented(name: str) -> None:
    assert len(inspect.getdoc(getattr(guard, name)) or "") > 40


@pytest.mark.parametrize(
    "name", ["train", "fit", "synth", "calibrate", "export", "evaluate", "scan", "benchmark", "plan_benchmark"]
)
def test_every_argument_of_the_large_functions_is_documented(name: str) -> None:
    function = getattr(guard, name)
    doc = inspect.getdoc(function) or ""
    described = doc.partition("Args:")[2].partition("Returns:")[0]
    missing = [
        p for p in inspect.signature(function).parameters if f"{p}:" not in described and f"{p}," not in described
    ]
    # shared by `train`, where they are described, or said in one line of their own
    assert set(missing) <= {"batch_size", "seed"}, missing


def test_no_module_hides_a_public_function() -> None:
    """Importing guard.train as a module would overwrite the function of that name."""
    import importlib.util

    hidden = [n for n in FUNCTIONS if importlib.util.find_spec(f"guard.{n}") is not None]
    assert hidden == []
