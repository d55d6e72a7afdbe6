"""Which process does which run: whoever holds its lock, which the system takes back from a process that dies."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("ood_guard")

POLL = 0.5  # seconds between tries of what another process holds


@contextlib.contextmanager
def turn(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock; yields whether this process has it.

    Args:
        wait: until another process that holds it lets go.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=POLL)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        log.warning("%s cannot be locked (%s): run the benchmark there in one process at a time", path.parent, error)
    try:
        yield True
    finally:
        lock.release()
