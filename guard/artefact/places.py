"""Where results will be written is tried before the work that makes them."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ConfigError

_SPARE_BYTES = 16 * 2**20


def writable_folder(path: str | Path, option: str = "out") -> Path:
    """The folder, made if missing, once a file could be written in it.

    Raises:
        ConfigError: it is a file, or cannot be made or written to.
    """
    folder = Path(path)
    try:
        is_file = folder.exists() and not folder.is_dir()
        if not is_file:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except (OSError, ValueError) as error:  # no permission, a full or read-only disk, too long a name, a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option}={_shown(folder)} cannot be written to ({reason}); choose another folder") from None
    if is_file:  # a ConfigError is a ValueError, too
        raise ConfigError(f"{option}={_shown(folder)} is a file; give a folder")
    return folder


def writable_file(path: str | Path, option: str = "out") -> Path:
    """The path of a file, once its folder could be written to.

    Raises:
        ConfigError: it is a folder, or its folder cannot be made or written to.
    """
    file = Path(path)
    writable_folder(file.parent, option)
    try:
        target = Path(os.path.realpath(file)) if file.is_symlink() else file  # of a link that is what is written
        is_folder = stat.S_ISDIR(os.stat(file).st_mode)
    except FileNotFoundError:
        is_folder = False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option}={_shown(file)} cannot be written to ({reason}); choose another name") from None
    if is_folder:
        raise ConfigError(f"{option}={_shown(file)} is a folder; give a file's name in it")
    if target != file:
        writable_folder(target.parent, option)
    return file


def check_unclaimed(folder: Path, cards: Sequence[str], files: Iterable[str], option: str = "out") -> None:
    """Files that a command would write belong to it where one of its own `cards` lies beside them.

    Args:
        files: their names, or patterns of them.

    Raises:
        ConfigError: one of them is there without a card: it is another command's, or the user's.
    """
    if any((folder / card).exists() for card in cards):
        return
    if found := next((path for pattern in files for path in sorted(folder.glob(pattern))), None):
        raise ConfigError(
            f"{option}={_shown(folder)} holds {found.name} and no {cards[0]}, so it is something else's and would be "
            f"replaced; give another {option}="
        )


def report_file(path: str | Path, option: str = "out") -> Path:
    """The page NAME.html of a report whose numbers go to NAME.json beside it, once both could be written.

    Raises:
        ConfigError: another ending, a place that cannot be written to, or one of the two without the other: it is
            something else's, as a run folder's guard.json and a scan's report.html are.
    """
    page = Path(path)
    if page.suffix not in (".html", ".htm"):
        raise ConfigError(f"{option} must end in .html (the numbers go into a .json beside it), got {_shown(page)}")
    writable_file(page, option)
    numbers = page.with_suffix(".json")
    if numbers.exists() and not page.exists():
        raise ConfigError(
            f"{option}={_shown(page)} writes its numbers to {numbers.name}, which is there and belongs to no report; "
            "choose another name"
        )
    check_unclaimed(page.parent, [numbers.name], [glob.escape(page.name)], option)
    return page


def check_room(folder: Path, needed: int) -> None:
    """Raises: ConfigError: less than `needed` bytes, and a little more, are free on the disk of `folder`."""
    needed += _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"out={_shown(folder)} has {free / 1e6:.0f} MB free, and checkpoints and guard need about "
            f"{needed / 1e6:.0f} MB; make room, or choose another folder"
        )


def _shown(path: Path) -> str:
    return repr(os.fspath(path)[:200])
