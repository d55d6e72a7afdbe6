"""Whether this machine can serve these guards: load each as a worker would, score one image, say what is wrong; and
publish the copies that the workers will serve (`control.py`).

    python -m serving.check        exit 0, or one sentence and exit 2

The supervisor asks in a process of its own, so that it stays small (neither ONNX Runtime nor torch is loaded into it)
and survives a runtime that crashes on a bad file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from guard.errors import GuardError

from .settings import Settings, paths_environment, read_settings

HOME = Path(__file__).resolve().parent.parent  # where `serving` and `guard` are found, whatever the user's folder holds


def main() -> int:
    """`python -m serving.check`."""
    from .control import Control
    from .flagged import FlaggedFolder
    from .reload import stage

    try:
        settings, control = read_settings(), Control()
        for name, path in settings.model_paths().items():
            stage(control, settings, name, path)
        if settings.keep_flagged is not None:
            FlaggedFolder(settings.keep_flagged, settings.keep_flagged_bytes)
    except GuardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def verify_in_own_process(settings: Settings) -> None:
    """Return when the guard can be served; else print its one sentence and exit with 2.

    Workers inherit the absolute path that was checked.
    """
    try:
        os.environ.update(paths_environment(settings))
    except GuardError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    check = subprocess.run(
        [sys.executable, "-m", "serving.check"], cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if check.returncode == 0:
        return
    sentence = next((line for line in check.stderr.splitlines() if line.startswith("error: ")), None)
    if sentence is None:
        last = (check.stderr.strip().splitlines() or ["no message"])[-1]
        paths = ", ".join(str(path) for path in settings.model_paths().values())
        sentence = f"error: {paths} cannot be loaded ({last})"
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
