"""Bytes that both worker processes of a test run need, made by the first that asks."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

folder: Path | None = None  # of the run, for all its workers; None where there are none


def once(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gave to the first process of this run that asked for `name`; the others wait for it."""
    if folder is None:
        return make()
    path, draft = folder / name, folder / f"{name}.draft"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # free again when its process ends
        if not path.exists():
            draft.write_bytes(make())
            draft.replace(path)
    return path.read_bytes()
