"""The Parquet files of a scan: each is written whole or not at all, and has a row for every image, corrupt ones too.

row                int64   of the data: files in sorted order, rows of a table
path               string  of the file, or its key in a table or archive
label              int64   predicted class; null, like all that follows, where the image could not be read
class_name         string
probability        float   of that class
ood_score          float   higher = more out-of-distribution
is_ood             bool
p_value            double  null for an uncalibrated guard
error              string  why the image could not be read; null where it could
given_label        int64   labelled scans only: the data's own label, in the guard's order of classes
given_class        string
given_probability  float   of that class
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact.files import write_atomic
from ..errors import ArtefactDamagedError, MissingExtraError
from .plan import Shard
from .reading import Reading
from .scoring import Scored

Columns = dict[str, np.ndarray]


def pyarrow() -> Any:
    """Raises: MissingExtraError: it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow, which writes Parquet,", "scan") from error
    return pyarrow


def write_shard(
    folder: Path, shard: Shard, parts: Sequence[Scored], source: Reading, class_names: Sequence[str]
) -> None:
    """Write one shard from the verdicts of its groups, in order."""
    pa = pyarrow()
    scored = Scored.joined(parts)
    good = np.flatnonzero(scored.readable())
    rows = np.arange(shard.start, shard.stop)
    names = np.array(class_names, dtype=object)

    def column(values: np.ndarray, kind: Any) -> Any:
        """Values of the readable images in their places, null elsewhere."""
        filled, missing = np.zeros(len(rows), values.dtype), np.ones(len(rows), bool)
        filled[good], missing[good] = values, False
        if values.dtype == np.float64:
            missing |= np.isnan(filled)
        return pa.array(filled, kind, mask=missing)

    errors = dict(scored.failures)
    columns = {
        "row": pa.array(rows, pa.int64()),
        "path": pa.array([source.key(int(row)) for row in rows], pa.string()),
        "label": column(scored.label, pa.int64()),
        "class_name": column(names[scored.label], pa.string()),
        "probability": column(scored.probability, pa.float32()),
        "ood_score": column(scored.ood_score, pa.float32()),
        "is_ood": column(scored.is_ood, pa.bool_()),
        "p_value": column(scored.p_value, pa.float64()),
        "error": pa.array([errors.get(at) for at in range(len(rows))], pa.string()),
    }
    if source.labels is not None:
        given = source.labels[rows]
        columns["given_label"] = pa.array(given, pa.int64())
        columns["given_class"] = pa.array(names[given], pa.string())
        columns["given_probability"] = column(scored.given_probability, pa.float32())
    buffer = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomic(folder / shard.name, buffer.getvalue())


def is_whole(folder: Path, shard: Shard) -> bool:
    """Whether the file is there with all its rows."""
    pa = pyarrow()
    try:
        with pa.parquet.ParquetFile(folder / shard.name) as file:
            return bool(file.metadata.num_rows == len(shard))
    except (OSError, pa.ArrowException):
        return False


def read_shards(folder: Path, shards: Sequence[Shard], names: Sequence[str]) -> Iterator[Columns]:
    """The columns of one shard after the other as arrays, without the rows that could not be read.

    Raises:
        ArtefactDamagedError: one of the files cannot be read.
    """
    for shard in shards:
        with _saying_damage(folder / shard.name):
            table = _rows(folder / shard.name, names, readable=True)
            columns = {name: table[name].to_numpy() for name in names}
        yield columns


def read_errors(folder: Path, shards: Sequence[Shard]) -> Iterator[tuple[int, str, str]]:
    """(row, path, why) of every image that could not be read.

    Raises:
        ArtefactDamagedError: one of the files cannot be read.
    """
    names = ("row", "path", "error")
    for shard in shards:
        with _saying_damage(folder / shard.name):
            table = _rows(folder / shard.name, names, readable=False)
            columns = [table[name].to_pylist() for name in names]
        yield from zip(*columns, strict=True)


def _rows(path: Path, names: Sequence[str], *, readable: bool) -> Any:
    """Columns of one file, of the images that could be read or of the others."""
    pa = pyarrow()
    table = pa.parquet.read_table(path, columns=list(dict.fromkeys([*names, "error"])), partitioning=None)
    return table.filter((pa.compute.is_null if readable else pa.compute.is_valid)(table["error"]))


@contextlib.contextmanager
def _saying_damage(path: Path) -> Iterator[None]:
    """Around the reading of a file: its footer may be whole, and what it holds not."""
    try:
        yield
    except (OSError, KeyError, ValueError, pyarrow().ArrowException) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtefactDamagedError(
            f"{path} is damaged ({reason}); remove it and scan again: what the other files hold is kept"
        ) from None
