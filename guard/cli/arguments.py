"""What commands take: the options they share, and text -> values."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, MissingDataError

DEBUG_FLAG = "--debug"
# Only shown in the help and accepted anywhere: `main` looks for the flag itself, because an error leaves the parser.
Debug = Annotated[bool, typer.Option(DEBUG_FLAG, help="Show tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Data = Annotated[
    str,
    typer.Argument(
        help="Folder with one sub-folder per class, Parquet file or folder, Hugging Face data set id, or 'digits'."
    ),
]


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Default values of a public function's parameters, so that they are written down once."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def value(text: str) -> Any:
    """JSON where it is JSON, else the text: ``0.1`` is a number, ``true`` a bool, ``paper`` a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def numbers(text: str | None) -> tuple[float, ...] | None:
    """``"0.5,0.5,0.5"`` as numbers; None stays None."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"expected numbers separated by commas, like 0.5,0.5,0.5, got {text!r}") from None


def settings(
    pairs: Iterable[str], function: Callable[..., Any] | None = None, *, flag: str = "--set"
) -> dict[str, Any]:
    """What was given with `flag`, ``name=value`` each, as the keyword arguments that `function`, if any, passes on.

    Raises:
        ConfigError: no ``=``; a name given twice; or a parameter of `function`, which has an option of its own.
    """
    own = inspect.signature(function).parameters if function else {}
    options: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not name:
            raise ConfigError(f"{flag} takes name=value, like {flag} weight=0.1, got {pair!r}")
        if name in own and own[name].kind is not inspect.Parameter.VAR_KEYWORD:
            raise ConfigError(
                f"{flag} {pair}: {name} is no option of the method or score; use --{name.replace('_', '-')}"
            )
        if name in options:
            raise ConfigError(f"{flag} {name} was given twice")
        options[name] = value(text)
    return options


def named_sets(arguments: Iterable[str]) -> dict[str, str]:
    """OOD sets by name from ``NAME=PATH`` or plain paths, in order.

    A plain path is named after its file or folder; a folder that holds Parquet files and nothing else to read gives
    one set per file, each named after its stem.

    Raises:
        ConfigError: two sets of one name.
        MissingDataError: a plain path that is not there (``digits:8-9`` and hub ids need no path).
    """
    sets: dict[str, str] = {}
    for argument in arguments:
        name, separator, source = argument.partition("=")
        found = {name: source} if separator and "/" not in name else _by_stem(argument)
        for key, path in found.items():
            if not key or not path:
                raise ConfigError(f"expected NAME=PATH or a path, got {argument!r}")
            if key in sets:
                raise ConfigError(f"two sets are named {key!r}: {sets[key]} and {path}; write NAME=PATH to rename one")
            sets[key] = path
    return sets


def weighted(arguments: Sequence[str]) -> str | dict[str, float]:
    """One source of outliers as it is; several, or one with ``=WEIGHT`` behind it, with their weights (1 where none).

    Raises:
        ConfigError: one that is named twice.
    """
    weights: dict[str, float] = {}
    for argument in arguments:
        what, separator, tail = argument.rpartition("=")
        weight = value(tail) if separator else None
        if isinstance(weight, bool) or not isinstance(weight, int | float):  # a path with "=" in it
            what, weight = argument, 1.0
        if what in weights:
            raise ConfigError(f"outliers {what!r} were named twice; give one of them the sum of the weights")
        weights[what] = weight
    return weights if len(weights) > 1 or set(weights.values()) != {1.0} else next(iter(weights))


def _by_stem(text: str) -> dict[str, str]:
    path = Path(text)
    if path.is_dir() and not any(child.is_dir() for child in path.iterdir()):
        files = sorted(path.glob("*.parquet"))
        if files:
            return {file.stem: str(file) for file in files}
    if text.startswith((".", "/", "~")) and not path.expanduser().exists():
        raise MissingDataError(f"no such file or folder: {text}; accepted: NAME=PATH, or the path of an OOD set")
    return {path.stem if path.is_file() else (path.name or text): text}


def image_paths(arguments: Iterable[str]) -> list[Path]:
    """Files as they are; a folder gives every image file in it and below, sorted.

    Raises:
        MissingDataError: a path that is not there, or a folder without an image file.
    """
    from PIL import Image

    from .. import preprocess  # registers the formats that are read

    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in preprocess.FORMATS}
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            if not path.exists():
                raise MissingDataError(f"no such image: {path}; accepted: image files, and folders of them")
            found.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        if not inside:
            raise MissingDataError(f"no image files in {path}; looked for {', '.join(sorted(suffixes))}")
        found += inside
    return found
