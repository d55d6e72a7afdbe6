"""One drift test for several processes, in one small file that survives whatever kills them.

    header   magic, version, what is watched (SHA-256), active slot, images ever handed in
    slot 0   images taken so far, CRC-32, State
    slot 1   the same
    ring     the images handed in last: score, label with flag

A request only puts its score into the ring, under a file lock: ten microseconds. Whoever reads, or a clock, takes what
is in the ring: it copies the active slot, bets on the copy without the lock, and then writes it over the other slot and
makes that one active with one write of 8 bytes, unless another process was faster. A slot says how many images it
holds, so that nothing is counted twice or lost wherever a process is killed (the system keeps what was written to the
map, and frees the lock). After a power failure the file may be torn; the CRC tells.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..artefact.files import write_atomic
from ..errors import DataError
from .monitor import DriftMonitor
from .report import DriftReport
from .state import RESETS

log = logging.getLogger("ood_guard")

RING = 8192  # images
_MAGIC = b"oodguard-drift-1"
_HEADER = 64  # magic 16, digest 32, active slot 8, handed in 8
_IMAGE = np.dtype([("score", "<f4"), ("label", "<u4")])
_FLAG = np.uint32(1 << 31)
_COUNT, _ONE, _HANDED = struct.Struct("<q"), struct.Struct("<fI"), 56


class SharedMonitor:
    """A `DriftMonitor` whose state is in a file, for threads and processes alike.

    A file that is damaged or belongs to another guard or alpha is set aside (``<name>.damaged-<time>``), logged, and a
    new one begun.

    Args:
        path: the file; made where it is missing.
        monitor: fresh; decides what the file must hold.

    Raises:
        DataError: the file can neither be made nor written.
    """

    def __init__(self, path: str | Path, monitor: DriftMonitor) -> None:
        self.path = Path(path)
        self.monitor = monitor
        self._guard = threading.Lock()  # of the file
        self._betting = threading.RLock()  # of the monitor; taken before the other
        self._slot = 16 + monitor.state.values.nbytes
        self._size = _HEADER + 2 * self._slot + RING * _IMAGE.itemsize
        self._digest = _watched(monitor)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._directory_lock():
                self._map = self._opened()
        except OSError as error:
            raise DataError(
                f"the drift state {self.path} cannot be written ({error.strerror or error}); name a folder that can"
            ) from None
        header = np.frombuffer(self._map, "<i8", 2, 48)
        self._active, self._handed = header[:1], header[1:]
        self._slots = [self._view(slot) for slot in (0, 1)]
        self._ring_start = _HEADER + 2 * self._slot
        self._ring = np.frombuffer(self._map, _IMAGE, RING, self._ring_start)

    def add(self, scores: np.ndarray, *, labels: np.ndarray, flagged: np.ndarray) -> None:
        """Hand in images: (N,) scores, predicted classes and flags; they are counted when this returns."""
        images = np.empty(len(scores), _IMAGE)
        images["score"] = scores
        images["label"] = np.asarray(labels, np.uint32) | np.where(flagged, _FLAG, np.uint32(0))
        for start in range(0, len(images), RING):
            part = images[start : start + RING]
            with self._betting, self._locked():
                if self._waiting() + len(part) > RING:
                    self._take()
                at = int(self._handed[0])
                self._ring[np.arange(at, at + len(part)) % RING] = part
                self._handed[0] = at + len(part)

    def add_one(self, score: float, label: int, flagged: bool) -> None:
        """`add` for one image, in a fraction of the time."""
        while True:
            with self._locked():
                handed = _COUNT.unpack_from(self._map, _HANDED)[0]
                taken = _COUNT.unpack_from(self._map, _HEADER + self._active.item() * self._slot)[0]
                if handed - taken < RING:
                    self._put(handed, score, label, flagged)
                    return
            self.take()

    def _put(self, handed: int, score: float, label: int, flagged: bool) -> None:
        start = self._ring_start + handed % RING * _IMAGE.itemsize
        _ONE.pack_into(self._map, start, score, label | int(_FLAG) if flagged else label)
        _COUNT.pack_into(self._map, _HANDED, handed + 1)

    def report(self) -> DriftReport:
        """Of all processes, up to now."""
        with self._betting:
            self.take()
            with self._locked():
                self._take()
            return self.monitor.report()

    def take(self) -> None:
        """Bet on what was handed in since; to be called now and then, so that no reader waits for it. Nobody waits
        meanwhile: the bets are made on a copy, and dropped where another process made them first."""
        with self._betting:
            with self._locked():
                before = self._read()
                end, images = self._handed_in()
            if not len(images):
                return
            self._bet(images)
            with self._locked():
                if self._stands() == before:
                    self._write(end)

    def reset(self) -> DriftReport:
        """`DriftMonitor.reset`, for every process."""
        with self._betting, self._locked():
            self._take()
            self.monitor.reset()
            self._write(int(self._handed[0]))
            return self.monitor.report()

    def _waiting(self) -> int:
        return int(self._handed[0]) - int(self._slots[int(self._active[0])][0][0])

    def _take(self) -> None:
        self._read()
        end, images = self._handed_in()
        if len(images):
            self._bet(images)
            self._write(end)

    def _read(self) -> tuple[float, ...]:
        """Take the state from the file; returns `_stands`."""
        self.monitor.state.values[:] = self._slots[int(self._active[0])][1]
        return self._stands()

    def _stands(self) -> tuple[float, ...]:
        """What changes with every write: active slot, images taken, resets."""
        active = int(self._active[0])
        taken, values = self._slots[active]
        return active, int(taken[0]), float(values[RESETS])

    def _handed_in(self) -> tuple[int, np.ndarray]:
        """Images ever handed in, and a copy of those that were not taken yet."""
        first, end = int(self._slots[int(self._active[0])][0][0]), int(self._handed[0])
        return end, self._ring[np.arange(first, end) % RING]

    def _bet(self, images: np.ndarray) -> None:
        labels = (images["label"] & ~_FLAG).astype(np.int64)
        flagged = images["label"] >= _FLAG
        known = labels < len(self.monitor.class_names)
        self.monitor.take(images["score"], labels=labels if known.all() else None, flagged=flagged, now=time.time())

    def _write(self, taken: int) -> None:
        other = 1 - int(self._active[0])
        head, values = self._slots[other]
        values[:] = self.monitor.state.values
        head[0], head[1] = taken, zlib.crc32(values.tobytes(), taken & 0xFFFFFFFF)
        self._active[0] = other

    def _view(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """([taken, crc], values) of a slot."""
        start = _HEADER + slot * self._slot
        length = len(self.monitor.state.values)
        return np.frombuffer(self._map, "<i8", 2, start), np.frombuffer(self._map, "<f8", length, start + 16)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._guard:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextmanager
    def _directory_lock(self) -> Iterator[None]:
        """One process at a time makes the file, or sets a damaged one aside."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _opened(self) -> mmap.mmap:
        if self.path.exists() and (why := self._wrong(self.path)):
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
            self.path.rename(aside)
            log.warning(
                "the drift state %s %s: it was set aside as %s, and the test begins anew", self.path, why, aside
            )
        if not self.path.exists():
            write_atomic(self.path, self._fresh())
        self._file = os.open(self.path, os.O_RDWR)
        return mmap.mmap(self._file, self._size)

    def _fresh(self) -> bytes:
        values = self.monitor.state.values.tobytes()
        slot = np.array([0, zlib.crc32(values, 0)], "<i8").tobytes() + values
        return _MAGIC + self._digest + bytes(16) + 2 * slot + bytes(RING * _IMAGE.itemsize)

    def _wrong(self, path: Path) -> str:
        """What is wrong with a file; "" where it can be gone on with."""
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # nobody writes it meanwhile
            data = file.read()
        if len(data) != self._size or not data.startswith(_MAGIC):
            return "is not one of this guard's"
        if data[16:48] != self._digest:
            return "is of another guard or alpha"
        active, handed = np.frombuffer(data, "<i8", 2, 48).tolist()
        if active not in (0, 1):
            return "is damaged"
        start = _HEADER + active * self._slot
        taken, crc = np.frombuffer(data, "<i8", 2, start).tolist()
        sound = crc == zlib.crc32(data[start + 16 : start + self._slot], taken & 0xFFFFFFFF)
        return "" if sound and 0 <= handed - taken <= RING else "is damaged"


def _watched(monitor: DriftMonitor) -> bytes:
    """What the state is about: another guard, alpha or seed has another digest."""
    said = repr((monitor.model, monitor.alpha, monitor.seed, monitor.class_names)).encode()
    return hashlib.sha256(said + monitor.reference.digest).digest()
