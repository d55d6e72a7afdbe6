"""The rows of a benchmark on disk: results.json, and the scores of every image beside it.

A row is kept with a digest of everything that decides it, and each of its OOD sets with one of its own.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError

from ..cache.keyed import digest
from .turns import turn

NAME, LOCKS, LOCK = "results.json", "locks", "results.lock"
SCORES = "scores"
KEY = ("backbone", "method", "head", "seed", "score")

Row = dict[str, Any]


class Rows:
    """results.json: every row that was ever measured in the folder, by `KEY` and settings."""

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        self._lock = out / LOCKS / LOCK

    def read(self) -> dict[str, Row]:
        """The rows, by digests of key and settings.

        Raises:
            ArtefactDamagedError: it cannot be read.
        """
        try:
            return {row_id(row): row for row in json.loads(self.path.read_bytes())["rows"]}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:
            raise ArtefactDamagedError(
                f"{self.path} is damaged, or no benchmark wrote it ({error!r}); remove it to measure anew, or choose "
                "another out"
            ) from None

    def add(self, rows: Iterable[Row]) -> None:
        """Put rows in, in place of those of the same key and settings; what their OOD sets have is merged."""
        with turn(self._lock, wait=True):
            there = self.read()
            for row in rows:
                before = there.get(row_id(row), {})
                there[row_id(row)] = {**before, **row, "ood": {**before.get("ood", {}), **row["ood"]}}
            ordered = sorted(there.values(), key=lambda row: ([str(row[key]) for key in KEY], row["settings"]))
            text = json.dumps({"benchmark": "guard benchmark", "rows": ordered}, indent=1) + "\n"
            write_atomic(self.path, text.encode())


def row_id(row: Mapping[str, Any]) -> str:
    """Hex digits of a row's key and settings."""
    return digest([[row[key] for key in KEY], row["settings"]])


def scores_path(out: Path, row: Mapping[str, Any]) -> Path:
    """Where the scores of single images of a row lie."""
    return out / SCORES / f"{row_id(row)}.npz"


def write_scores(out: Path, row: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> None:
    """Scores by set, "" for the in-distribution test images, beside those that are there; compressed float32."""
    import io

    path = scores_path(out, row)
    every = {**read_scores(out, row), **scores}
    buffer = io.BytesIO()
    named = {f"set{i}": values.astype(np.float32) for i, values in enumerate(every.values())}
    np.savez_compressed(buffer, allow_pickle=False, names=np.array(list(every)), **named)
    write_atomic(path, buffer.getvalue())


def read_scores(out: Path, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `write_scores` wrote; empty where there is nothing."""
    path = scores_path(out, row)
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {str(name): file[f"set{i}"] for i, name in enumerate(file["names"])}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it, and its intervals are left out") from None


@dataclass(frozen=True)
class Results:
    """What `guard.benchmark` returns.

    Attributes:
        folder: of runs and report.
        rows: one per backbone, method, head, score and seed, in the order of the file.
        near, far, other: the names of the OOD sets; the last count in no mean.
        table: the means over seeds, for the terminal.
    """

    folder: Path
    rows: list[Row] = field(repr=False)
    near: tuple[str, ...]
    far: tuple[str, ...]
    other: tuple[str, ...] = ()
    table: str = field(repr=False, default="")

    def __str__(self) -> str:
        return self.table
