"""What a user types: frozen records whose errors are one sentence, and the names of the parts that have them."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from .errors import ConfigError, UnknownNameError
from .paths import at_home
from .renamed import RENAMED


def option(
    default: Any,
    description: str,
    *,
    read_if: Mapping[str, Any] | None = None,
    unread_if: Mapping[str, Any] | None = None,
    common: bool = False,
    knob: bool = False,
    rule: str = "",
    **constraints: Any,
) -> Any:
    """A field of a `Record` that explains itself.

    Args:
        default: its value where the user gives none; ``...`` where one must be given.
        description: what it is, with unit and range, as one sentence for ``guard methods NAME`` and ``--help``.
        read_if: the other options of the record that decide whether it is read, each with the value, or the tuple of
            values, at which it is; ``{"model": "built-in"}``. A value that was given is refused at any other.
        unread_if: likewise the values at which it is not read, where those at which it is cannot be listed (names that
            users register).
        common: shown before the others.
        knob: it changes speed or memory, and no result.
        rule: what follows the option's name in the error about a value that is not accepted, where pydantic's words
            are not good enough: "must be an integer from 0 to 9".
        constraints: of `pydantic.Field`: ge, gt, le, lt, multiple_of ...
    """
    extra: dict[str, Any] = {
        "read_if": dict(read_if or {}),
        "unread_if": dict(unread_if or {}),
        "common": common,
        "knob": knob,
        "rule": rule,
    }
    return Field(default, description=description, json_schema_extra=extra, **constraints)


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown fields; where `option` made them, also infinite numbers and NaN, and
    what would not be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _finite(self) -> Self:
        for name in _numbers(type(self)):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple | list) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{name} must be a finite number, got {number}")
        return self

    @model_validator(mode="after")
    def _nothing_unread(self) -> Self:
        conditional = [n for n, f in type(self).model_fields.items() if read_conditions(f) or unread_conditions(f)]
        for name in changed(self, conditional):
            field, said = type(self).model_fields[name], f"{name}={shown(getattr(self, name))} is not read with"
            for other, wanted in read_conditions(field).items():
                found, accepted = getattr(self, other), _values(wanted)
                if found not in accepted:
                    give = " or ".join(map(repr, accepted))
                    raise ValueError(f"{said} {other}={found!r}; drop it, or give {other}={give}")
            for other, refused in unread_conditions(field).items():
                found = getattr(self, other)
                if found in _values(refused):
                    raise ValueError(f"{said} {other}={found!r}; drop it, or choose another {other}")
        return self


@functools.cache
def _numbers(record: type[Record]) -> tuple[str, ...]:
    """The fields that `option` made and that take numbers which may be fractions."""
    made = {name: field for name, field in record.model_fields.items() if _said(field, "knob") is not None}
    return tuple(name for name, field in made.items() if "float" in str(field.annotation))


def changed(options: Record, names: Iterable[str] | None = None) -> list[str]:
    """The fields, all or of these `names`, that were given values other than their defaults."""
    fields = type(options).model_fields
    given = [name for name in (fields if names is None else names) if name in options.model_fields_set]
    return [n for n in given if getattr(options, n) != fields[n].get_default(call_default_factory=True)]


def shown(value: Any) -> str:
    """An option's value; of a nested one what was given."""
    return repr({n: getattr(value, n) for n in changed(value)} if isinstance(value, Record) else value)


def _values(condition: Any) -> tuple[Any, ...]:
    return condition if isinstance(condition, tuple) else (condition,)


def read_conditions(field: FieldInfo) -> Mapping[str, Any]:
    """The ``read_if`` of a field that `option` made; empty for others."""
    return _said(field, "read_if") or {}


def unread_conditions(field: FieldInfo) -> Mapping[str, Any]:
    """The ``unread_if`` of a field that `option` made; empty for others."""
    return _said(field, "unread_if") or {}


def knobs(record: type[Record], prefix: str = "") -> frozenset[str]:
    """The paths of all options that change speed or memory and no result, those of nested records included."""
    own = {prefix + name for name, field in record.model_fields.items() if _said(field, "knob")}
    return frozenset(own).union(*(knobs(kind, f"{prefix}{name}.") for name, kind in nested(record).items()))


def _said(field: FieldInfo, what: str) -> Any:
    """What `option` was told of a field; None for fields that it did not make."""
    extra = field.json_schema_extra
    return extra.get(what) if isinstance(extra, dict) else None


def is_common(field: FieldInfo) -> bool:
    """Whether `option` said that users reach for it first."""
    return bool(_said(field, "common"))


R = TypeVar("R", bound=Record)


def parse_options(record: type[R], values: dict[str, Any], owner: str, also: Iterable[str] = ()) -> R:
    """Validate `values` into `record`; the first problem becomes one sentence.

    Args:
        also: names that live beside these options, so that a misspelt one is recognised too.

    Raises:
        ConfigError: an unknown option (near matches shown), a wrong type or a value out of range.
    """
    try:
        return record(**at_home(values))
    except ValidationError as error:
        raise ConfigError(one_sentence(error, record, owner, also)) from None


def one_sentence(error: ValidationError, record: type[Record], owner: str, also: Iterable[str] = ()) -> str:
    """The first problem with a `record`, for the user who gave its options to `owner`: "method 'vos'"."""
    every = error.errors()
    first = next(
        (one for one in every if one["type"] == "extra_forbidden"), every[0]
    )  # it may be a missing one misspelt
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        inner = _record_at(record, first["loc"][:-1])
        return _unknown(inner, first["loc"], owner, also if inner is record else ())
    if first["type"] == "missing":
        field = _record_at(record, first["loc"][:-1]).model_fields.get(str(first["loc"][-1]))
        return f"{owner} needs {name}" + (f": {field.description}" if field and field.description else "")
    message, given = first["msg"].removeprefix("Value error, "), _short(first["input"])
    if not name:  # a rule between options; its message has the values
        return f"{owner}: {message}"
    above, at = _record_at(record, first["loc"][:-1]), _record_at(record, first["loc"])
    if first["type"] == "value_error" and at is not above:  # likewise, of a nested option
        return f"{owner} option {name}: {message}"
    if rule := _rule_at(record, first["loc"]):
        return f"{rule}, got {given}"
    return f"{owner} option {name}: {message}, got {given}"


def _short(value: Any) -> str:
    """A value as it was typed; of a long one its type."""
    shown = repr(value)
    return shown if len(shown) <= 120 and "\n" not in shown else type(value).__name__


def _rule_at(record: type[Record], loc: tuple[int | str, ...]) -> str:
    """The path of the option at `loc` (an item of a list or mapping belongs to it) and its rule; "" without one."""
    for depth, step in enumerate(loc):
        field = record.model_fields.get(str(step))
        rule = field and _said(field, "rule")
        if rule:
            return f"{'.'.join(map(str, loc[: depth + 1]))} {rule}"
        record = nested(record).get(str(step), record)
    return ""


def _record_at(record: type[Record], loc: Iterable[int | str]) -> type[Record]:
    """The record of a nested option, by its path."""
    for step in loc:
        found = nested(record).get(str(step))
        if found is None:
            return record
        record = found
    return record


def nested(record: type[Record]) -> dict[str, type[Record]]:
    """The fields of a record that are records themselves."""
    kinds = {name: field.annotation for name, field in record.model_fields.items()}
    return {n: kind for n, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Record)}


def _unknown(record: type[Record], loc: tuple[int | str, ...], owner: str, also: Iterable[str]) -> str:
    """The sentence about an option that `record` does not have."""
    *parents, name = map(str, loc)
    path = ".".join([*parents, name])
    new = new_path(record, path)
    if new is not None:
        return f"{owner}: option {name!r} is now {spelled(new)}"
    near = difflib.get_close_matches(name, [*record.model_fields, *also], n=2, cutoff=0.5)
    inside = [f"{part}.{name}" for part, kind in nested(record).items() if name in kind.model_fields]
    meant = f"; did you mean {' or '.join(map(repr, [*inside, *near]))}?" if near or inside else "."
    listing = ", ".join(f"{n}={_shown(f)}" for n, f in record.model_fields.items()) or "none"
    return f"{owner} has no option {path!r}{meant} Its options and defaults: {listing}"


def new_path(record: type[Record], old: str) -> str | None:
    """Where in `record` the option is that had another name before: as `RENAMED` says, or by the prefix that became a
    nested record, ``pair_epochs`` -> ``pair.epochs``; None where there is none."""
    listed = RENAMED.get(old, ())
    for path in (listed,) if isinstance(listed, str) else listed:
        if _has(record, path):
            return path
    for name, kind in nested(record).items():
        if old.startswith(f"{name}_"):
            rest = old.removeprefix(f"{name}_")
            inner = rest if rest in kind.model_fields else new_path(kind, rest)
            if inner is not None:
                return f"{name}.{inner}"
    return None


def _has(record: type[Record], path: str) -> bool:
    *parents, name = path.split(".")
    inner = record
    for parent in parents:
        if parent not in nested(inner):
            return False
        inner = nested(inner)[parent]
    return name in inner.model_fields


def _shown(field: FieldInfo) -> str:
    """A default for people; a nested record's as its path's beginning, dots where one must be given."""
    if field.is_required():
        return "..."
    default = field.get_default(call_default_factory=True)
    return "{...}" if isinstance(default, Record) else repr(default)


def spelled(path: str) -> str:
    """How a user writes the option at a path: ``diffusion={'epochs': ...} (--set diffusion.epochs=...)``."""
    first, *rest = path.split(".")
    value = "..."
    for name in reversed(rest):
        value = f"{{{name!r}: {value}}}"
    return f"{first}={value} (--set {path}=...)"


def part(options: Record, kind: type[R]) -> R:
    """The options of `kind` among options that extend it."""
    return kind(**{name: getattr(options, name) for name in kind.model_fields})


Entry = TypeVar("Entry", bound=type)


class Registry(Generic[Entry]):
    """The classes of one kind (scores, methods ...) by name; each registers itself where it is defined.

    Args:
        kind: what one of them is called in messages: "score".
        base: what every entry must be a subclass of.
        hint: the end of the message about an unknown name, e.g. where they are listed.
    """

    def __init__(self, kind: str, base: type, hint: str = "") -> None:
        self.kind, self.base, self.hint = kind, base, hint
        self._entries: dict[str, Entry] = {}

    def register(self, entry: Entry) -> Entry:
        """Class decorator: make a class available by its `name`.

        Raises:
            ConfigError: it is not a subclass of `base`, or another class has the name.
        """
        if not (isinstance(entry, type) and issubclass(entry, self.base)):
            wanted = f"{self.base.__module__}.{self.base.__qualname__}"
            raise ConfigError(f"register a {self.kind} as a subclass of {wanted}, got {entry!r}")
        name: str = entry.name  # type: ignore[attr-defined]  # `base` declares it
        if self._entries.get(name, entry).__qualname__ != entry.__qualname__:
            raise ConfigError(f"a {self.kind} named {name!r} is registered already; choose another name")
        self._entries[name] = entry
        return entry

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))

    def get(self, name: str) -> Entry:
        """The class registered under `name`; an unknown name raises `UnknownNameError` with near matches."""
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries, self.hint)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
