"""Which images a scan scores, cut into shards, and what makes two scans the same one: ``scan.json``."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..artefact.files import write_atomic
from ..errors import ConfigError
from ..manifest import Manifest
from ..record import Record
from .reading import Reading

CARD = "scan.json"
_LOCK = ".scan.lock"
_MEANING = {  # the first that differs is named
    "guard_sha256": "another guard, or this one with another calibration",
    "labelled": "another choice of labelled=",
    "shard_size": "another shard_size",
    "runtime": "another runtime",
    "images": "other images: files were added or removed",
    "data_sha256": "other images: files were added, removed, renamed or changed",
    "data": "a data set of another name",
}


class ScanCard(Record):
    """What a scan is of. A folder is gone on with by the same scan alone.

    Attributes:
        guard: identity of the guard. guard_sha256: digest of its manifest, which names the digest of its weights.
        data: name of the data set. data_sha256: of its fingerprint and the paths of all images.
        images: rows of the whole scan, corrupt ones included.
        labelled: whether the data's labels were read. shard_size: rows of a shard. runtime: what runs the guard.
    """

    format_version: int = 1
    guard: str
    guard_sha256: str
    data: str
    data_sha256: str
    images: int
    labelled: bool
    shard_size: int
    runtime: str


@dataclass(frozen=True)
class Shard:
    """The rows `start` .. `stop` - 1 of the data, in the file `name`."""

    name: str
    start: int
    stop: int

    def groups(self, size: int) -> Iterator[np.ndarray]:
        """Its rows, `size` at a time."""
        for at in range(self.start, self.stop, size):
            yield np.arange(at, min(at + size, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


def shards_of(card: ScanCard) -> list[Shard]:
    """All shards of a scan, in the order of the data."""
    starts = range(0, card.images, card.shard_size)
    return [Shard(f"part-{i:05d}.parquet", at, min(at + card.shard_size, card.images)) for i, at in enumerate(starts)]


def card_of(manifest: Manifest, source: Reading, *, labelled: bool, shard_size: int, runtime: str) -> ScanCard:
    """The card of a scan that is about to begin."""
    listing = hashlib.sha256(source.fingerprint().encode())
    for row in range(len(source)):
        listing.update(source.key(row).encode() + b"\0")
    return ScanCard(
        guard=manifest.identity,
        guard_sha256=hashlib.sha256(manifest.model_dump_json().encode()).hexdigest(),
        data=source.name,
        data_sha256=listing.hexdigest(),
        images=len(source),
        labelled=labelled,
        shard_size=shard_size,
        runtime=runtime,
    )


def begin(folder: Path, card: ScanCard) -> None:
    """Write the card, or check that it is the one that is there.

    Raises:
        ConfigError: the folder holds another scan.
    """
    path = folder / CARD
    if not path.exists():
        write_atomic(path, card.model_dump_json(indent=1).encode() + b"\n")
        return
    try:
        there = ScanCard.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError):
        raise ConfigError(f"{path} is damaged or of another version of ood-guard; give another out=") from None
    for field, meaning in _MEANING.items():
        if getattr(there, field) != getattr(card, field):
            raise ConfigError(
                f"{folder} holds a scan of {there.data!r} by {there.guard} ({there.images} images), and this one would "
                f"be of {meaning} ({_short(there, field)} there, {_short(card, field)} now); give another out=, or "
                "remove that folder"
            )


def _short(card: ScanCard, field: str) -> str:
    said = str(getattr(card, field))
    return said[:12] if field.endswith("sha256") else said


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One scan at a time writes into a folder; the lock ends with the process, also by kill -9.

    Raises:
        ConfigError: another one does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another scan writes into {folder} now; wait for it, or give another out=") from None
        except OSError:  # a file system without locks
            pass
        for left in folder.glob(".part-*.part"):  # of a scan that was killed while it wrote
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(file)
