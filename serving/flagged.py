"""Keep the images that were flagged, for people to look at (GUARD_KEEP_FLAGGED=folder; off by default).

    <sha256>.jpg ...     the bytes as they were sent; pixels that were sent without a file as PNG
    manifest.jsonl       a line for every flagged image: time, request_id, file, ood_score, p_value, class_name, model

A thread writes; what it cannot keep up with, and what the disk refuses, is not kept and nobody waits. The folder never
holds more than GUARD_KEEP_FLAGGED_BYTES: the oldest images make room, with their lines. Workers share it by a lock.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from guard.errors import ConfigError
from guard.verdict import Verdict

logger = logging.getLogger("guard.serving")

MANIFEST = "manifest.jsonl"
_WAITING, _WAITING_BYTES = 256, 64 * 1024 * 1024  # images and their bytes; beyond either they are not kept
_OURS = re.compile(r"[0-9a-f]{64}\.(jpg|png|webp|gif|bmp)")  # of other files none is counted, and none makes room
_ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


@dataclass(frozen=True, slots=True)
class Flagged:
    """One flagged image and its line.

    Attributes:
        image: the file as it was sent, or uint8 (H, W, C).
        line: what the manifest says of it, without the file's name.
    """

    image: bytes | np.ndarray
    line: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.image) if isinstance(self.image, bytes) else self.image.nbytes


def line_of(verdict: Verdict, model: str, request_id: str) -> dict[str, Any]:
    """The line of an image that is flagged now; `model` is the artefact's identity."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request_id,
        "ood_score": verdict.ood_score,
        "p_value": None if math.isnan(verdict.p_value) else verdict.p_value,
        "class_name": verdict.class_name,
        "model": model,
    }


class FlaggedFolder:
    """The folder, as one process writes into it.

    Args:
        folder: made where it is missing, readable by its owner alone.
        most_bytes: that the folder may hold.

    Raises:
        ConfigError: it cannot be made or written to.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._set_total(self._measured())
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"GUARD_KEEP_FLAGGED={folder} cannot be written to ({reason}); name another folder"
            ) from None

    def keep(self, flagged: Flagged) -> bool:
        """Write one image and its line; False where it alone is larger than the folder may be.

        Raises:
            OSError: the disk refuses.
        """
        data = flagged.image if isinstance(flagged.image, bytes) else _png(flagged.image)
        name = f"{hashlib.sha256(data).hexdigest()}.{_ending(data)}"
        line = (json.dumps({**flagged.line, "file": name}) + "\n").encode()
        path, most = self.folder / name, len(line) + len(data)
        if most > self._most_bytes:
            return False
        with self._locked():
            total = self._total()
            if total + most > self._most_bytes:
                total = self._made_room(self._most_bytes - most)
            # first: a kill in between makes the sum too large, never too small
            self._set_total(total + len(line) + (0 if path.exists() else len(data)))
            if path.exists():
                os.utime(path)  # it is the newest again
            else:
                _write(path, data)
            _append(self.folder / MANIFEST, line)
        return True

    def _made_room(self, most: int) -> int:
        """Drop the oldest until no more than `most` bytes and nine tenths of the limit are left; how many that are."""
        goal = min(most, self._most_bytes * 9 // 10)
        held = {entry.name: entry.stat() for entry in self._images()}
        written = list(self._lines())
        others = b"".join(line for name, line in written if not _OURS.fullmatch(name))
        lines = [(name, line) for name, line in written if name in held]
        if sum(len(line) for _, line in lines) > goal // 2:  # an image that comes again and again: its last line
            last = {name: i for i, (name, _) in enumerate(lines)}
            lines = [(name, line) for i, (name, line) in enumerate(lines) if last[name] == i]
        sizes = {name: found.st_size for name, found in held.items()}
        for name, line in lines:
            sizes[name] += len(line)
        left = sum(sizes.values()) + len(others)
        for name in sorted(held, key=lambda name: held[name].st_mtime_ns):
            if left <= goal:
                break
            left -= sizes.pop(name)
            (self.folder / name).unlink()
        _write(self.folder / MANIFEST, others + b"".join(line for name, line in lines if name in sizes))
        return left

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """(file, line) of the manifest, in its order; file is "" in a line that another program wrote."""
        try:
            written = (self.folder / MANIFEST).read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in written:
            try:
                said = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            name = said.get("file") if isinstance(said, dict) else None
            yield name if isinstance(name, str) else "", line

    def _images(self) -> list[os.DirEntry[str]]:
        with os.scandir(self.folder) as entries:
            return [entry for entry in entries if _OURS.fullmatch(entry.name)]

    def _measured(self) -> int:
        manifest = self.folder / MANIFEST
        held = manifest.stat().st_size if manifest.exists() else 0
        return held + sum(entry.stat().st_size for entry in self._images())

    def _total(self) -> int:
        try:
            return int((self.folder / ".bytes").read_text())
        except (OSError, ValueError):
            return self._measured()

    def _set_total(self, total: int) -> None:
        (self.folder / ".bytes").write_text(str(total))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the system frees it where a process was killed."""
        import fcntl  # not on every system that can import the service

        with open(self.folder / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Keeper:
    """Writes flagged images beside the service's work.

    Args:
        folder: where to.
    """

    def __init__(self, folder: FlaggedFolder) -> None:
        self._folder = folder
        self._waiting: deque[Flagged] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._write_all, name="guard-keep", daemon=True)
        self._thread.start()

    def put(self, flagged: Flagged) -> None:
        """Keep it when there is time; never waits for the disk."""
        with self._changed:
            full = len(self._waiting) >= _WAITING or self._bytes + flagged.size > _WAITING_BYTES
            if not full:
                self._waiting.append(flagged)
                self._bytes += flagged.size
                self._changed.notify()
        if full:
            self._complain("flagged images come faster than they can be written; some are not kept")

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting, for at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _next(self) -> Flagged | None:
        """Waits for one; None when there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            flagged = self._waiting.popleft()
            self._bytes -= flagged.size
            return flagged

    def _write_all(self) -> None:
        while (flagged := self._next()) is not None:
            try:
                if not self._folder.keep(flagged):
                    self._complain("a flagged image is larger than GUARD_KEEP_FLAGGED_BYTES; it is not kept")
            except Exception as error:
                self._complain(f"a flagged image cannot be kept: {error}")

    def _complain(self, sentence: str) -> None:
        """Once a minute: a full disk must not fill the log as well."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + 60
            logger.warning(sentence)


def _ending(data: bytes) -> str:
    return next((ending for magic, ending in _ENDINGS.items() if data.startswith(magic)), "png")


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; under the folder's lock, so one name is enough."""
    temporary = path.with_name(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _append(path: Path, line: bytes) -> None:
    """Whole or not at all; under the folder's lock."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, line) != len(line):  # the disk, or a quota, is full
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
