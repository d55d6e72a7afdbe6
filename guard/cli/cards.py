"""A registered method, head, score or synthesiser for people and for programs: what it is and its options.

The options are grouped by part: its own, then those of each nested record under its path. Within a group, those that
users reach for first come first.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import filter as matching
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ..record import Record, is_common, nested, read_conditions, unread_conditions
from .output import console, plain, print_json, table

Pattern = Annotated[str, typer.Argument(metavar="[NAME|PATTERN]", help="A name shows its options; '*mix*' filters.")]

FLAG = {"head": "--head-set", "score": "--score-set"}  # else --set


@dataclass(frozen=True)
class OptionRow:
    """One option.

    Attributes:
        path: as it is typed: "diffusion.epochs".
        type: without its limits: "int", "float | None", "'a' | 'b'".
        default: of the method, which may differ from the nested record's.
        range: its limits: "at least 1, below 10"; "" without.
        description: what it is.
        common: whether users reach for it first.
        only_with: the values of other options at which it is read; "" where it always is.
    """

    path: str
    type: str
    default: Any
    range: str
    description: str
    common: bool
    only_with: str


def option_rows(record: type[Record]) -> dict[str, list[OptionRow]]:
    """The options of a record by part: its own under "", those of each nested record under its path."""
    return dict(_groups(record, record(), ""))


def _groups(record: type[Record], defaults: Record, prefix: str) -> Iterator[tuple[str, list[OptionRow]]]:
    parts = nested(record)
    own = {name: field for name, field in record.model_fields.items() if name not in parts}
    rows = [_row(f"{prefix}{name}", field, getattr(defaults, name)) for name, field in own.items()]
    yield prefix.removesuffix("."), sorted(rows, key=lambda row: not row.common)
    for name, kind in parts.items():
        yield from _groups(kind, getattr(defaults, name), f"{prefix}{name}.")


def _row(path: str, field: FieldInfo, default: Any) -> OptionRow:
    return OptionRow(
        path=path,
        type=type_name(field.annotation),
        default=plain(default),
        range=_range(field),
        description=field.description or "",
        common=is_common(field),
        only_with=_only_with(field),
    )


def _range(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    found = ((word, getattr(limit, name, None)) for limit in field.metadata for name, word in words.items())
    return ", ".join(f"{word} {bound}" for word, bound in found if bound is not None)


def _only_with(field: FieldInfo) -> str:
    def values(wanted: Any, last: str) -> str:
        return last.join(map(repr, wanted if isinstance(wanted, tuple) else (wanted,)))

    read = [f"{other}={values(wanted, ' or ')}" for other, wanted in read_conditions(field).items()]
    unread = [f"{other} other than {values(wanted, ' or ')}" for other, wanted in unread_conditions(field).items()]
    return ", ".join([*read, *unread])


def summary(registered: type) -> str:
    """The first line of its documentation."""
    return (inspect.getdoc(registered) or "").split("\n", 1)[0]


def card(registered: Any) -> dict[str, Any]:
    """Name, documentation and options, for programs; the options by path."""
    groups = option_rows(registered.Options)
    rows = [asdict(row) for group in groups.values() for row in group]
    return {
        "name": registered.name,
        "summary": summary(registered),
        "doc": inspect.getdoc(registered) or "",
        "options": {row.pop("path"): row for row in rows},
    }


def print_card(kind: str, registered: Any) -> None:
    """The same for people, a table per part."""
    console().print(f"{kind} {registered.name}\n\n{inspect.getdoc(registered) or ''}\n")
    groups = {part: rows for part, rows in option_rows(registered.Options).items() if rows}
    if not groups:
        console().print("no options")
    for part, rows in groups.items():
        if part:
            console().print(f"\n{part}: {summary(_record_at(registered.Options, part))}", style="bold")
        shown = table(FLAG.get(kind, "--set"), "default", "type", "range", "meaning")
        for row in rows:
            meaning = row.description + (f" Only with {row.only_with}." if row.only_with else "")
            shown.add_row(row.path, json.dumps(row.default), row.type, row.range, meaning)
        console().print(shown)


def _record_at(record: type[Record], path: str) -> type[Record]:
    for name in path.split("."):
        record = nested(record)[name]
    return record


def is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def show(kind: str, pattern: str, names: Iterable[str], get: Callable[[str], Any], json: bool) -> None:
    """One registered thing in full, or the list of those that match."""
    if not is_pattern(pattern):
        registered = get(pattern)  # an unknown name raises, with near matches
        if json:
            print_json(card(registered))
        else:
            print_card(kind, registered)
        return
    found: Mapping[str, str] = {name: summary(get(name)) for name in matching(names, pattern)}
    if json:
        print_json([{"name": name, "summary": words} for name, words in found.items()])
        return
    shown = table(kind, "")
    for row in found.items():
        shown.add_row(*row)
    console().print(shown)


def type_name(annotation: Any) -> str:
    """A type as users write it: int, float | None, 'a' | 'b', tuple[float, ...]."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " | ".join(map(type_name, arguments))
    if arguments and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    if annotation is ... or annotation is type(None):
        return "..." if annotation is ... else "None"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
