"""Verdicts that were kept: a Parquet or CSV file with a row per image, or a folder of them, such as guard scan's.

A scan's rows lie as its data did, one class after the other; unless they have a time, they are taken in a random order.

ood_score    the score, to be compared with the guard's calibration scores; or
p_value      (1 + #{calibration scores >= ood_score}) / (n + 1), whose rank is n + 1 times it
is_ood       the flag; class_name (or label), the predicted class; time, by which rows are sorted: where they are there
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, MissingDataError, MissingExtraError
from ..manifest import Manifest
from ..paths import path_given
from ..requests import check_seed
from .monitor import ALPHA, DriftMonitor
from .report import DriftReport

_READ = ("ood_score", "p_value", "is_ood", "class_name", "label", "time")
_PARQUET = (".parquet", ".pq")
SHARDS = "part-*.parquet"  # of a scan, whose folder may hold cross-fitted judgements too, which are not the guard's
_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no", "")


@dataclass(frozen=True)
class Table:
    """Columns of N rows in the order of time; None where the file lacks one."""

    path: Path
    ood_score: np.ndarray | None
    p_value: np.ndarray | None
    is_ood: np.ndarray | None
    class_name: list[str] | None


def read_table(path: str | Path, *, seed: int = 0) -> Table:
    """Read a file of verdicts, a folder's files in the order of their names, or the shards of a `guard scan`.

    Args:
        path: the file or the folder.
        seed: of the order of a scan's rows that have no time.

    Raises:
        MissingDataError, DataError: no such file; neither Parquet nor CSV; files of other columns than the first;
            neither of the columns; a value that is not a number, with its row.
        MissingExtraError: Parquet without pyarrow.
    """
    path = path_given(path)
    check_seed(seed)
    shards = sorted(path.glob(SHARDS)) if path.is_dir() else []
    columns = _together(shards or _tables(path)) if path.is_dir() else _columns(path)
    if not columns or not {"ood_score", "p_value"} & set(columns):
        raise DataError(f"{path} has neither a column 'ood_score' nor 'p_value'; a drift test needs one of them")
    n = len(next(iter(columns.values())))
    if not n:
        raise DataError(f"{path} has no rows")
    order = np.arange(n)
    if "time" in columns:
        order = np.argsort(_times(path, columns["time"]), kind="stable")
    elif shards:
        order = np.random.default_rng(seed).permutation(n)
    names = columns.get("class_name", columns.get("label"))
    return Table(
        path=path,
        ood_score=_numbers(path, columns, "ood_score", order),
        p_value=_numbers(path, columns, "p_value", order),
        is_ood=_flags(path, columns["is_ood"])[order] if "is_ood" in columns else None,
        class_name=None if names is None else [str(names[i]) for i in order],
    )


def drift(
    table: Table, *, manifest: Manifest | None = None, n: int | None = None, alpha: float = ALPHA, seed: int = 0
) -> DriftReport:
    """Run the test over a table.

    Args:
        table: of verdicts.
        manifest: of the guard that gave them; its calibration scores are what ood_score is compared with.
        n: without a manifest, how many calibration images the column p_value was computed from.
        alpha, seed: as in `DriftMonitor`.

    Raises:
        ConfigError: neither manifest nor n, or a column that the one given cannot do without.
        DataError: p-values that do not come from n calibration images.
    """
    names = _names(table)
    if manifest is not None:
        if table.ood_score is None:
            raise ConfigError(f"{table.path} has no column 'ood_score' to compare with the guard's calibration scores")
        scores, monitor = table.ood_score, DriftMonitor.of(manifest, alpha=alpha, class_names=names, seed=seed)
    else:
        scores, n = _ranks(table, n)
        monitor = DriftMonitor(np.arange(n), alpha=alpha, class_names=names, seed=seed)
    labels = None
    if table.class_name is not None:
        at = {name: i for i, name in enumerate(names)}
        labels = np.array([at.get(name, 0) for name in table.class_name])  # 0: unscored, which no class counts
    return monitor.update(scores, labels=labels, flagged=table.is_ood)


def _names(table: Table) -> tuple[str, ...]:
    """The classes of the images that have a verdict: one that could not be read has none."""
    scores = table.p_value if table.ood_score is None else table.ood_score
    if table.class_name is None or scores is None:
        return ()
    return tuple(dict.fromkeys(np.array(table.class_name, dtype=object)[~np.isnan(scores)]))


def _ranks(table: Table, n: int | None) -> tuple[np.ndarray, int]:
    """Scores (N,) that lie among 0 .. n - 1 as the images' scores did among those of n calibration images; and n."""
    if table.p_value is None:
        raise ConfigError(
            f"{table.path} has no column 'p_value', and an 'ood_score' means nothing without the guard that gave it; "
            "name it: guard drift FILE --guard guard.onnx"
        )
    if n is None or n < 1:
        raise ConfigError(
            "p-values say nothing of how many calibration images they come from; name the guard (--guard guard.onnx) "
            "or the number (--calibration-images 1000)"
        )
    at_least = table.p_value * (n + 1) - 1
    off = np.abs(at_least - at_least.round()) > 1e-3 * (n + 1) ** 0.5
    wrong = ~np.isnan(at_least) & (off | (at_least < -0.5) | (at_least > n + 0.5))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{table.path} has p_value {table.p_value[row]:.6g}, which {n} calibration images cannot give: those are "
            f"k / {n + 1}; check --calibration-images, or name the guard (--guard), which a class-conditional one needs"
        )
    return n - at_least.round() - 0.5, n


def _tables(folder: Path) -> list[Path]:
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in (*_PARQUET, ".csv"))
    if not files:
        raise MissingDataError(f"{folder} has no file of verdicts: accepted are .parquet, .pq and .csv")
    return files


def _together(files: list[Path]) -> dict[str, list[Any]]:
    columns = _columns(files[0])
    for file in files[1:]:
        more = _columns(file)
        if more.keys() != columns.keys():
            raise DataError(f"{file} has the columns {sorted(more)}, and {files[0].name} {sorted(columns)}")
        for name, values in more.items():
            columns[name] += values
    return columns


def _columns(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise MissingDataError(f"no such file of verdicts: {path}")
    return _parquet(path) if path.suffix.lower() in _PARQUET else _csv(path)


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    try:
        file = pq.ParquetFile(path)
        table = file.read([name for name in _READ if name in file.schema_arrow.names])
        return {name: table.column(name).to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from None


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            head = [name.strip() for name in next(rows, [])]
            columns: dict[str, list[Any]] = {name: [] for name in _READ if name in head}
            places = {name: head.index(name) for name in columns}
            for row in rows if columns else ():
                if row and len(row) != len(head):
                    raise DataError(f"{path} has {len(row)} values in line {rows.line_num}, and {len(head)} columns")
                for name, at in places.items() if row else ():
                    columns[name].append(row[at])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is neither a CSV file in UTF-8 nor called .parquet: {error}") from None
    return columns


def _numbers(path: Path, columns: dict[str, list[Any]], name: str, order: np.ndarray) -> np.ndarray | None:
    if name not in columns:
        return None
    found = np.empty(len(order))
    for i, value in enumerate(columns[name]):
        try:
            found[i] = np.nan if value in (None, "") else float(value)
        except (TypeError, ValueError):
            raise DataError(f"{path} has {value!r} in column {name!r}, row {i + 1}: not a number") from None
    ordered: np.ndarray = found[order]
    return ordered


def _flags(path: Path, values: list[Any]) -> np.ndarray:
    found = np.zeros(len(values), dtype=bool)
    for i, value in enumerate(values):
        word = "" if value is None else str(value).strip().lower()
        if word not in _TRUE + _FALSE:
            raise DataError(f"{path} has {value!r} in column 'is_ood', row {i + 1}: neither true nor false")
        found[i] = word in _TRUE
    return found


def _times(path: Path, values: list[Any]) -> np.ndarray:
    """Seconds since 1970, of numbers, datetimes or ISO 8601."""
    found = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            found[i] = _seconds(value)
        except (TypeError, ValueError):
            raise DataError(
                f"{path} has {value!r} in column 'time', row {i + 1}: neither ISO 8601 nor seconds"
            ) from None
    return found


def _seconds(value: Any) -> float:
    """Raises: TypeError, ValueError: neither a number, a date nor ISO 8601; or not finite."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day).timestamp()
    try:
        seconds = float(value)
    except ValueError:
        return datetime.fromisoformat(value.strip()).timestamp()
    if not math.isfinite(seconds):
        raise ValueError("not finite")
    return seconds
