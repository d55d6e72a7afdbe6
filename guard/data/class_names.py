"""Class names in the forms that people have them, as one tuple in the order of the logits.

["cat", "dog"], numpy, pandas                 in this order
{"cat": 0, "dog": 1}                          class_to_idx
{0: "cat", 1: "dog"}, {"0": "cat", ...}       id2label, from 0 or from 1
"names.txt"                                   a name a line, or "0 cat", "1 dog" in every line
"names.json"                                  a list or a mapping of one of these kinds
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDataError
from ..paths import expanded

FORMS = "a list of names, {'cat': 0, ...}, {0: 'cat', ...}, or a text or JSON file of them"
_MOST_BYTES = 64 * 2**20
_NUMBERED = re.compile(r"\s*(\d+)\s*[\s,:;=]\s*(\S.*)")


def names_in_order(given: Any, what: str = "class_names", *, unique: bool = True) -> tuple[str, ...]:
    """Class names of any accepted form, one per logit.

    Args:
        given: the names; see the module.
        what: where they come from, for messages: "class_names", "id2label".
        unique: refuse two classes of one name; a published model may have such (ImageNet's two cranes).

    Raises:
        ConfigError: duplicates, indices with gaps, names that are no text or integers, and any other form.
        MissingDataError: a file that is not there.
    """
    if isinstance(given, (str, os.PathLike)):
        given = _from_file(expanded(given), what)
    if type(given).__name__ == "Series" and hasattr(given, "to_dict"):
        given = _from_series(given, what)
    if isinstance(given, Mapping):
        names = _from_mapping(dict(given), what)
    else:
        names = tuple(_name(value, what, at) for at, value in enumerate(_sequence(given, what)))
    if not names:
        raise ConfigError(f"{what} is empty; give {FORMS}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and unique:
        raise ConfigError(f"{what} has {_short(twice[0])} more than once; give each class a name of its own")
    return names


def _sequence(given: Any, what: str) -> list[Any]:
    """Lists, tuples, arrays of one axis, Series and Index; what has no order is refused."""
    if type(given).__name__ == "ClassLabel" and hasattr(given, "names"):  # of a Hugging Face data set
        return list(given.names)
    if hasattr(given, "tolist") and hasattr(given, "ndim"):  # numpy, torch, pandas
        if given.ndim != 1:
            raise ConfigError(f"{what} has shape {tuple(given.shape)}; give one name per class, shape (C,)")
        return list(given.tolist())
    if isinstance(given, (list, tuple)) or type(given).__name__ in ("dict_keys", "dict_values"):
        return list(given)
    if isinstance(given, (set, frozenset)):
        raise ConfigError(f"{what} is a set, which has no order; give {FORMS}")
    if hasattr(given, "to_list"):  # polars
        return list(given.to_list())
    raise ConfigError(f"{what} is {_a(given)}; give {FORMS}")


def _from_series(given: Any, what: str) -> Any:
    """A pandas Series of names in order; of indices by name it is a mapping."""
    keys, values = [_index(key) for key in given.index], [_index(value) for value in given]
    if None not in values and all(key is None for key in keys):
        return given.to_dict()
    numbers = [key for key in keys if key is not None]
    if len(numbers) == len(keys) and numbers != sorted(numbers) and max(numbers) <= len(keys):
        raise ConfigError(
            f"{what} is a Series whose index is not in order; give .tolist(), or .to_dict() to go by index"
        )
    return given.tolist()


def _from_mapping(given: dict[Any, Any], what: str) -> tuple[str, ...]:
    """Both directions of {name: index}: where keys and values could both be indices, text is the name."""
    keys, values = [_index(k) for k in given], [_index(v) for v in given.values()]
    by_key, by_value = None not in keys, None not in values
    if by_key and by_value:
        if all(isinstance(value, (str, np.str_)) for value in given.values()):
            by_value = False
        elif all(isinstance(key, (str, np.str_)) for key in given):
            by_key = False
        elif keys != values:
            raise ConfigError(
                f"{what} maps numbers to numbers; which are the names? Write the names as text: {{0: '7'}}"
            )
    if by_key and given:
        return _ordered(keys, list(given.values()), what)
    if by_value and given:
        return _ordered(values, list(given), what)
    if not given:
        return ()
    odd = next(
        ((k, v) for (k, v), i, j in zip(given.items(), keys, values, strict=True) if i is None and j is None), None
    )
    key, value = odd or next(iter(given.items()))
    raise ConfigError(
        f"{what} maps {_short(key)} to {_short(value)}; give {{name: index}} or {{index: name}}, each index an integer"
    )


def _ordered(indices: list[int | None], names: list[Any], what: str) -> tuple[str, ...]:
    numbers = [index for index in indices if index is not None]
    first, count = min(numbers), len(numbers)
    if sorted(numbers) != list(range(first, first + count)) or first not in (0, 1):
        twice = [number for number, times in Counter(numbers).items() if times > 1]
        missing = (
            sorted(set(range(0 if 0 in numbers else 1, max(numbers) + 1)) - set(numbers))[:1] if count < 10**6 else []
        )
        why = (
            f"has the index {twice[0]} twice"
            if twice
            else f"has the negative index {first}"
            if first < 0
            else f"has no index {missing[0] if missing else 0}"
        )
        raise ConfigError(f"{what} {why}; give every index from 0 to {count - 1} (or from 1 to {count}) once")
    order = sorted(range(count), key=lambda at: numbers[at])
    return tuple(_name(names[at], what, numbers[at]) for at in order)


def _index(value: Any) -> int | None:
    """A class index: an integer, or the text of one; True is none."""
    if isinstance(value, np.generic) or getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,9}\s*", value, re.ASCII):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _name(value: Any, what: str, at: int) -> str:
    """One name: text, UTF-8 bytes or an integer."""
    if isinstance(value, np.generic) or getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{what}: name {at} is bytes that are not UTF-8, {_short(value)}; give text") from None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ConfigError(f"{what}: name {at} is {_a(value)}; names are text, or integers")
    if not value.strip():
        raise ConfigError(f"{what}: name {at} is empty; give every class a name")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{what}: name {at} cannot be written as UTF-8, {_short(value)}; give it another name")
    return value


def _from_file(path: Path, what: str) -> Any:
    """What a text or JSON file holds."""
    try:
        there = path.is_file()
        size = path.stat().st_size if there else 0
    except (OSError, ValueError):  # too long for a path, or a NUL inside
        there, size = False, 0
    if not there:
        raise MissingDataError(f"{what}={_short(str(path))} is not a file; give {FORMS}")
    if size > _MOST_BYTES:
        raise ConfigError(f"{what}: {path} has {size} bytes, which is no list of names; give {FORMS}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text; save it as UTF-8, a name a line, or as JSON") from None
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read ({error.strerror}); give {FORMS}") from None
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        return from_json(text, f"{what}: {path}")
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _without_numbers(lines)


def from_json(text: str, what: str) -> Any:
    """A JSON list, or a mapping whose keys are all different.

    Raises:
        ConfigError: no JSON, neither of them, or a key twice.
    """
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, what))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{what} is not JSON ({error}); give a list of names, or {{name: index}}") from None
    for key in ("id2label", "label2id"):  # a Hugging Face config.json
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, (list, dict)):
        raise ConfigError(f"{what} holds {_a(found)}; give a list of names, or {{name: index}}")
    return found


def _once(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ConfigError(f"{what} has the key {_short(twice[0])} twice; give each class once")
    return dict(pairs)


def _without_numbers(lines: list[str]) -> list[str] | dict[int, str]:
    """Lines "0 cat", "1 dog" (as Teachable Machine writes labels.txt) by their numbers; others as they are."""
    found = [_NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(found):
        return lines
    numbered = {int(match[1]): match[2] for match in found if match}
    counted = sorted(numbered) in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    return numbered if counted and len(set(numbered.values())) == len(lines) else lines


def _a(value: Any) -> str:
    """What something is: a number by value, the rest by type."""
    if value is None or isinstance(value, (bool, int, float)):
        return _short(value)
    return f"a {type(value).__name__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def listed(names: Iterable[str], most: int = 8, letters: int = 40) -> str:
    """Some names for a message, each cut, and how many more there are."""
    names = list(names)
    shown = ", ".join(name if len(name) <= letters else f"{name[:letters]}..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
