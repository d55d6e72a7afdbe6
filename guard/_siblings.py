"""Find train/ and export/ beside guard, whatever the working directory holds.

`train` and `export` are common names for a user's own scripts. `find_spec` tells who would answer to the name
without executing anything; when it is not our folder (or has no spec at all: a running ``python train.py`` is
``__main__``, and a half-imported module may have ``__spec__ = None``), the same folder is imported as
``guard._train`` / ``guard._export``, whose ``__path__`` is ours. Both names exist on disk, so spawned data-loader
workers find them too.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from .errors import MissingExtraError

_HOME = Path(__file__).resolve().parent.parent


@functools.cache  # decided once: one process must never hold both names
def package_name(name: str) -> str:
    """The importable name of our sibling package: ``name`` itself where it is ours, else ``guard._<name>``."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module in sys.modules without a spec
        spec = None
    ours = _HOME / name / "__init__.py"
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == ours:
        return name
    return f"guard._{name}"


def sibling(module: str) -> ModuleType:
    """Import ``train.runs.train`` or ``export.to_onnx``, from our folder always."""
    top, _, rest = module.partition(".")
    package = package_name(top)
    return importlib.import_module(f"{package}.{rest}" if rest else package)


def needs(extra: str, module: str) -> ModuleType:
    """Import a sibling module; a missing third-party package becomes a sentence with the pip install."""
    try:
        return sibling(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in {"train", "export", "guard"}:
            raise
        raise MissingExtraError(f"{error.name} (needed by guard.{module.split('.')[0]})", extra) from error
