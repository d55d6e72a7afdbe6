"""What a user types: frozen records whose errors are one sentence, and the names of the parts that have them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError, UnknownNameError


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def parse_options(record: type[R], values: dict[str, Any], owner: str, also: Iterable[str] = ()) -> R:
    """Validate `values` into `record`; the first problem becomes one sentence.

    Args:
        also: names that live beside these options, so that a misspelt one is recognised too.

    Raises:
        ConfigError: an unknown option (near matches shown), a wrong type or a value out of range.
    """
    try:
        return record(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            accepted = list(record.model_fields)
            near = difflib.get_close_matches(name, [*accepted, *also], n=2, cutoff=0.5)
            meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            listing = ", ".join(f"{n}={f.default!r}" for n, f in record.model_fields.items()) or "none"
            raise ConfigError(f"{owner} has no option {name!r}{meant} Its options and defaults: {listing}") from None
        message = first["msg"].removeprefix("Value error, ")
        if not name:  # a rule between options; its message has the values
            raise ConfigError(f"{owner}: {message}") from None
        raise ConfigError(f"{owner} option {name}: {message}, got {first['input']!r}") from None


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
