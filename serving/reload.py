"""A rolling update: a new artefact is served when it is loaded, verified and warm, and else the old one stays.

copy -> load (format, digests) -> score once -> same input as before? -> publish -> every worker loads and swaps

POST /admin/reload      {"model": "guard", "path": "new.onnx"}, both optional; needs GUARD_TOKEN
kill -HUP               of the service's first process: `python -m serving.reload`, every model from its own path
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from guard.detector import Guard
from guard.errors import ArtefactError, ConfigError, GuardError

from .control import Control, Generation, Served
from .engine import load_guard
from .settings import Settings, read_settings

logger = logging.getLogger("guard.serving")


def check_input(before: Guard, after: Guard) -> None:
    """Raises: ConfigError: the new guard takes other pixels, which clients that send pixels would learn from errors."""
    old, new = ((p.height, p.width, p.channels) for p in (before.manifest.preprocess, after.manifest.preprocess))
    if old != new:
        shapes = " and ".join(" x ".join(map(str, shape)) for shape in (new, old))
        raise ConfigError(
            f"the new guard and the one that is served take different pixels, {shapes}; start a service for the new one"
        )


def stage(control: Control, settings: Settings, name: str, source: Path, before: Guard | None = None) -> Generation:
    """Copy, verify and publish one artefact; on an error nothing changes.

    Args:
        name: of the model that it replaces.
        source: an .onnx file, an .engine file or a run folder.
        before: the guard that is served now, if one is.

    Raises:
        GuardError: it cannot be served; the message names `source`.
    """
    with control.changing():
        try:
            copy = control.copy(name, source)
        except GuardError:
            raise
        except OSError as error:  # not readable, no space
            raise ArtefactError(f"{source} cannot be copied ({error.strerror or error}); the old guard stays") from None
        try:
            g = load_guard(copy, settings)
            if before is not None:
                check_input(before, g)
        except GuardError as error:
            error.args = (str(error).replace(str(copy), str(source)),)
            raise
        return control.publish(name, Served(path=copy, identity=g.manifest.identity, source=source))


def source_of(control: Control, settings: Settings, name: str) -> Path:
    """Where the artefact that is served came from."""
    served = control.read().models.get(name)
    return served.source if served else settings.model_paths()[name]


def main() -> int:
    """`python -m serving.reload`: every model again from where it came."""
    try:
        settings, control = read_settings(), Control()
        for name in settings.model_paths():
            source = source_of(control, settings, name)
            served = control.read().models[name]
            stage(control, settings, name, source, load_guard(served.path, settings))
            print(f"reloaded {name} from {source}", file=sys.stderr)
    except GuardError as error:
        print(f"error: the old guard stays: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
