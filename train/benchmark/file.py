"""The YAML file of a benchmark: read, with other values in place of some of its keys."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.benchmark_file import BenchmarkFile
from guard.errors import ConfigError, MissingDataError, MissingExtraError
from guard.paths import expanded, path_given
from guard.requests import BenchmarkRequest

from ..generators.diffusion.class_prompts import read_class_prompts

PROMPTS = "class_prompts"  # an option of diffusion models that may be a file


def read(request: BenchmarkRequest) -> tuple[BenchmarkFile, Path]:
    """What is asked for, and the folder that its paths are relative to. `name` and `out` are filled in.

    Raises:
        MissingDataError: there is no such file.
        ConfigError: it is not YAML, or says what is not accepted.
    """
    given, folder, name = _given(request.file)
    given = _with_prompts(_plain(_replaced(given, request.settings, "")), folder)
    given.setdefault("name", name)
    if request.out is not None:
        given["out"] = str(request.out.resolve())
    with BenchmarkFile.checked():
        asked = BenchmarkFile(**given)
    out = folder / expanded(asked.out or f"runs/{asked.name}")
    return asked.model_copy(update={"out": str(out.resolve())}), folder / expanded(asked.root or ".")


def _given(file: Any) -> tuple[dict[str, Any], Path, str]:
    """The keys, the folder of the file, and its name."""
    if isinstance(file, Mapping):
        return dict(file), Path.cwd(), "benchmark"
    path = path_given(file, "file")
    if not path.is_file():
        raise MissingDataError(f"no such file: {path}; accepted: a YAML file, see docs/benchmarking.md")
    found = _parsed(path)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path} must hold keys with values, like 'data: digits', got {str(found)[:80]!r}")
    return found, path.parent.resolve(), path.stem


def _parsed(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml (needed by guard.benchmark)", "train") from error

    class Loader(yaml.SafeLoader):
        """A key that is given twice is an error, not the last one's value."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            keys = [self.construct_object(key, deep=True) for key in own]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"{path}, line {node.start_mark.line + 1}: {key!r} is given twice")
            return dict(super().construct_mapping(node, deep))

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a safe loader
        json.dumps(found, default=str, skipkeys=True)  # goes through all of it
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} holds a part that lies in itself, or too deep ({error})") from None
    return found


def _replaced(given: Mapping[str, Any], settings: Mapping[str, Any], above: str) -> dict[str, Any]:
    """The keys with `settings` in their places; mappings are merged.

    ``--set`` writes a dash as an underscore, so that either stands for the name in the file.
    """
    merged = dict(given)
    for said, value in settings.items():
        alike = [key for key in merged if isinstance(key, str) and key.replace("-", "_") == said]
        key = said if said in merged or len(alike) != 1 else alike[0]
        there = merged.get(key)
        if isinstance(value, Mapping) and there is not None:
            if not isinstance(there, Mapping):
                if (above, key) != ("", "data"):
                    raise ConfigError(f"{above}{key} is {there!r} in the file, which has no {next(iter(value))!r}")
                there = {"train": there}
            value = _replaced(there, value, f"{above}{key}.")
        merged[key] = value
    return merged


def _plain(given: Any) -> Any:
    """Numbers of numpy and torch are numbers, paths and devices are their names, as in a file; images stay images."""
    if isinstance(given, Mapping):
        return {_plain(key): _plain(part) for key, part in given.items()}
    if isinstance(given, list | tuple):
        return [_plain(part) for part in given] if isinstance(given, list) else tuple(_plain(part) for part in given)
    if isinstance(given, Path | torch.device):
        return str(given)
    alone = isinstance(given, np.generic) or (isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 0)
    return given.item() if alone else given


def _with_prompts(given: Any, folder: Path) -> Any:
    """With what a file of class prompts holds in the place of its path, which is relative to the benchmark's file: what
    identifies a run is then the prompts, and not where they lie."""
    if isinstance(given, list):
        return [_with_prompts(part, folder) for part in given]
    if not isinstance(given, Mapping):
        return given
    return {
        key: read_class_prompts(located(value, folder))
        if key == PROMPTS and isinstance(value, str)
        else _with_prompts(value, folder)
        for key, value in given.items()
    }


def located(given: Any, folder: Path) -> Any:
    """A path, or pattern of paths, that is there in the folder; whatever else it may be stays as it is."""
    if not isinstance(given, str | Path):
        return given
    try:
        path = folder / Path(given).expanduser()
        there = path.exists() or any(folder.glob(str(given)))
    except (OSError, ValueError, NotImplementedError, RuntimeError):  # too long, an absolute pattern, ~nobody
        return given
    return str(path) if there else given
