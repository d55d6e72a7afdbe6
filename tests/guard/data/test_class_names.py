"""Class names in every form that people have them are one tuple in the order of the logits, or a sentence."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.cli.arguments import class_names
from guard.data.class_names import names_in_order
from guard.errors import ConfigError, GuardError, MissingDataError

NAMES = ("dog", "cat", "a bird, any")
ROWS = list(enumerate(NAMES))


def pandas_forms() -> list[Any]:
    pd = pytest.importorskip("pandas")
    return [
        pd.Series(NAMES),
        pd.Index(NAMES),
        pd.Series(NAMES, dtype="category"),
        pd.Series(NAMES, index=[0, 60, 120]),
        pd.Series([1, 0, 2], index=["cat", "dog", "a bird, any"]),
    ]


@pytest.mark.parametrize(
    "given",
    [
        list(NAMES),
        NAMES,
        np.array(NAMES),
        np.array(NAMES, object),
        np.array(NAMES, "S"),
        [name.encode() for name in NAMES],
        [np.str_(name) for name in NAMES],
        {name: i for i, name in reversed(ROWS)},
        {name: i + 1 for i, name in reversed(ROWS)},
        {name: str(i) for i, name in reversed(ROWS)},
        {name: np.int64(i) for i, name in ROWS},
        dict(reversed(ROWS)),
        {str(i): name for i, name in reversed(ROWS)},
        {str(i + 1): name for i, name in reversed(ROWS)},
        {np.int32(i): name for i, name in reversed(ROWS)},
        OrderedDict(ROWS),
        dict(ROWS).values(),
        {name: i for i, name in ROWS}.keys(),
    ],
)
def test_forms_in_memory(given: Any) -> None:
    assert names_in_order(given) == NAMES


def test_forms_of_pandas() -> None:
    for given in pandas_forms():
        assert names_in_order(given) == NAMES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "dog\ncat\na bird, any\n"),
        ("bom.txt", "\ufeffdog\r\ncat\r\na bird, any\r\n\r\n"),
        ("numbered.txt", "0 dog\n1 cat\n2 a bird, any\n"),
        ("from_1.txt", "1: dog\n2: cat\n3: a bird, any"),
        ("list.json", json.dumps(NAMES)),
        ("to_idx.json", json.dumps({name: i for i, name in reversed(ROWS)})),
        ("id2label.json", json.dumps(dict(reversed(ROWS)))),
        ("config.json", json.dumps({"id2label": dict(ROWS), "architectures": ["ResNet"]})),
        ("json_inside.txt", json.dumps(NAMES)),
    ],
)
def test_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert names_in_order(tmp_path / name) == NAMES
    assert names_in_order(str(tmp_path / name)) == NAMES
    assert names_in_order(class_names(str(tmp_path / name))) == NAMES


@pytest.mark.parametrize(
    "typed", ['dog,cat,"a bird, any"', 'dog, cat, "a bird, any"', json.dumps(NAMES), json.dumps(dict(ROWS))]
)
def test_what_is_typed_on_the_command_line(typed: str) -> None:
    assert names_in_order(class_names(typed)) == NAMES


def test_integers_are_names_and_a_line_that_begins_with_one_stays(tmp_path: Path) -> None:
    assert names_in_order([7, 8, np.int64(9)]) == ("7", "8", "9")
    assert names_in_order({"0": 0, "1": 1, "10": 2}) == ("0", "1", "10")
    assert names_in_order({"0": "7", "1": "3"}) == ("7", "3")
    (tmp_path / "coins.txt").write_text("1 euro\n2 euro\n5 cent\n")
    assert names_in_order(tmp_path / "coins.txt") == ("1 euro", "2 euro", "5 cent")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b", "a"], "class_names has 'a' more than once"),
        ({"a": 0, "b": 2}, "has no index 1; give every index from 0 to 1"),
        ({2: "a", 3: "b"}, "has no index"),
        ({"a": -1, "b": 0}, "has the negative index -1"),
        ({"a": 0, "b": 0}, "has the index 0 twice"),
        ({0: 1, 1: 0}, "maps numbers to numbers"),
        ({"a": "b"}, "maps 'a' to 'b'; give {name: index} or {index: name}"),
        ({"a": 0.0, "b": 1.0}, "maps 'a' to 0.0"),
        ({"a": True, "b": False}, "maps 'a' to True"),
        ([0.5, 1.5], "name 0 is 0.5; names are text, or integers"),
        ([None, "a"], "name 0 is None"),
        ([True, False], "name 0 is True"),
        ([["a"], ["b"]], "name 0 is a list"),
        (np.array([["a", "b"]]), r"shape \(1, 2\)"),
        (["a", " "], "name 1 is empty"),
        ([b"\xff", "a"], "name 0 is bytes that are not UTF-8"),
        (["a\udcff", "b"], "name 0 cannot be written as UTF-8"),
        ([], "is empty; give a list"),
        ({}, "is empty; give a list"),
        ({"a", "b"}, "is a set, which has no order"),
        (b"ab", "is a bytes; give a list"),
        (5, "is 5; give a list"),
        ((name for name in NAMES), "is a generator; give a list"),
        ("dog", "'dog' is not a file; give a list of names"),
        ("x" * 3_000_000, "is not a file"),
    ],
)
def test_what_is_refused(given: Any, message: str) -> None:
    with pytest.raises(GuardError, match=message) as caught:
        names_in_order(given)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"", "class_names is empty"),
        (b"a\n\nb\n", "name 1 is empty"),
        (b'{"a": 0, "a": 1}', "has the key 'a' twice"),
        (b'{"a": 0', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_files_that_are_refused(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(text)
    with pytest.raises(ConfigError, match=message) as caught:
        names_in_order(tmp_path / "names.txt")
    assert len(str(caught.value)) < 300
    with pytest.raises(MissingDataError, match="is not a file"):
        names_in_order(tmp_path / "other.txt")
