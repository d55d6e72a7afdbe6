"""Options that a user types: frozen records whose errors are one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from .errors import ConfigError
from .manifest import Record

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
