"""Where a run goes when the user does not say: ``runs/<time>-<what>``, with ``runs/latest`` pointing to the newest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from ..errors import ConfigError
from ..launched import process_count

RUNS = Path("runs")
LATEST = "latest"


def run_folder(out: Path | None, what: str) -> Path:
    """The folder that the user names, or a new one.

    Raises:
        ConfigError: several processes were launched, each of which would name another.
    """
    if out is None and process_count() > 1:
        raise ConfigError(f"{process_count()} processes write one folder, which all of them see; name it with --out")
    return out or new_run_folder(what)


def new_run_folder(what: str) -> Path:
    """A new folder, named by this second, e.g. ``runs/20250131-142501-vos``: made here, so that nobody else takes it.

    Where none can be made its name is returned all the same, and refused where it is written to.
    """
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{what}"
    n = 1
    while True:
        folder = RUNS / (stem if n == 1 else f"{stem}-{n}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if RUNS.is_dir():
                n += 1
                continue
        except OSError:
            pass
        return folder


@contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """A run that fails before it has written anything leaves no empty folder behind."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not there, or not empty: a checkpoint to continue from
            folder.rmdir()
            if folder.parent == RUNS:
                RUNS.rmdir()
        raise


def mark_latest(folder: Path) -> Path | None:
    """Point ``runs/latest`` to `folder` where it lies in ``runs/``; returns the link, or None where it stays as it was.

    The link is relative, so the tree can be moved, and replaced in one step, so a reader never misses it.
    """
    runs = RUNS.resolve()
    if folder.resolve().parent != runs or folder.name == LATEST:
        return None
    link, temporary = RUNS / LATEST, RUNS / f".{LATEST}.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, link)
    except OSError:  # no symbolic links here, or somebody's real folder has the name
        temporary.unlink(missing_ok=True)
        return None
    return link
