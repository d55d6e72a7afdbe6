"""Text -> values: what is typed behind a flag, as the public functions take it."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.class_names import from_json
from ..errors import ConfigError, MissingDataError
from ..paths import expanded, path_given
from ..renamed import RENAMED

LOG = logging.getLogger("ood_guard")


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


def class_names(text: str) -> Any:
    """A file of class names, JSON, or names separated by commas (in quotes where they hold one): ``cat,dog,"a, b"``.

    Raises:
        ConfigError: JSON that is broken, or one name alone.
    """
    try:
        there = expanded(text).is_file()
    except (OSError, ValueError):  # too long for a path
        there = False
    if there:
        return expanded(text)
    if text.lstrip()[:1] in ("[", "{"):
        return from_json(text, "--class-names")
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    return names if len(names) > 1 else Path(text)


def settings(pairs: Iterable[str], *, flag: str = "--set", beside: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What was given with `flag`, ``name=value`` each; a dotted name, ``diffusion.epochs=5``, goes into a mapping.

    Args:
        beside: what else the command takes, by name, and how it is typed.

    Raises:
        ConfigError: no ``=``; a name given twice; or, with ``--set``, a name in `beside`.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        path, separator, text = pair.partition("=")
        names = [name.strip().replace("-", "_") for name in path.split(".")]
        if not separator or not all(names):
            raise ConfigError(f"{flag} takes name=value, like {flag} weight=0.1, got {pair!r}")
        if flag == "--set" and beside is not None and names[0] in beside:
            raise ConfigError(f"{flag} {pair}: {_typed_otherwise(names[0], beside[names[0]])}")
        _put(options, names, value(text), f"{flag} {'.'.join(names)} was given twice")
    return options


def _typed_otherwise(name: str, way: str) -> str:
    renamed = RENAMED.get(name, ())
    now = " or ".join((renamed,) if isinstance(renamed, str) else renamed)
    also = f", or --set {now}=... which some methods read" if now else ""
    return f"{name} is not an option of the method or score; use {way}{also}"


def _put(options: dict[str, Any], names: list[str], given: Any, twice: str) -> None:
    """Set the option at a path. A part's own name is short for its model: ``pair=style`` beside ``pair.epochs=5``."""
    *parents, name = names
    for parent in parents:
        inside = options.setdefault(parent, {})
        if not isinstance(inside, dict):
            inside = options[parent] = {"model": inside}
        options = inside
    if isinstance(options.get(name), dict) and isinstance(given, str):
        options, name = options[name], "model"
    if name in options:
        raise ConfigError(twice)
    options[name] = given


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
    path = _named(text)
    if path.is_dir() and not any(child.is_dir() for child in path.iterdir()):
        files = sorted(path.glob("*.parquet"))
        if files:
            return {file.stem: str(file) for file in files}
    if text.startswith((".", "/", "~")) and not path.exists():
        raise MissingDataError(f"no such file or folder: {text}; accepted: NAME=PATH, or the path of an OOD set")
    return {path.stem if path.is_file() else (path.name or text): text}


def _named(text: str) -> Path:
    """The path; raises as `path_given` does."""
    return path_given(text, "the path")


def image_paths(arguments: Iterable[str]) -> list[Path]:
    """Files as they are; a folder gives every image file in it and below, sorted. What is not read is named.

    Raises:
        MissingDataError: a path that is not there, or a folder without an image file.
    """
    from ..data.forms.folders import FolderSource
    from ..data.forms.listing import SUFFIXES

    found: list[Path] = []
    for argument in arguments:
        path = _named(argument)
        if not path.is_dir():
            if not path.exists():
                raise MissingDataError(f"no such image: {argument[:200]}; accepted: image files, and folders of them")
            found.append(path)
            continue
        inside = FolderSource(path, labelled=False)
        for note in inside.notes:
            LOG.warning("%s", note)
        if not inside.paths:
            raise MissingDataError(f"no image files in {path}; looked for {', '.join(SUFFIXES)}")
        found += inside.paths
    return found
