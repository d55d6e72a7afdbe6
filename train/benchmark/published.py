"""A benchmark's numbers beside those that were published."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guard.benchmark_file import BenchmarkFile
from guard.benchmark_published import AVERAGE, PUBLISHED_METRICS, PublishedRow, PublishedTable

from .results import Results
from .summary import METRICS, Group, Spread, groups

ACCURACY = "accuracy"
OURS = "published", "ours", "deviation", "difference"
BESIDE = "Published / measured here (difference in points), in percent; - where no row of this run stands beside it"


@dataclass(frozen=True)
class Beside:
    """One published number, in percent, and ours.

    Attributes:
        metric: of `METRICS`, or accuracy.
        column: the OOD set, "average", or a set of data.shifted; "" for accuracy on the test images.
        ours: None where it is not measured.
    """

    table: PublishedTable
    row: PublishedRow
    metric: str
    column: str
    published: float
    ours: Spread | None

    @property
    def difference(self) -> float | None:
        """Ours less theirs, in points."""
        return None if self.ours is None else 100 * self.ours.mean - self.published


def beside(asked: BenchmarkFile, results: Results) -> list[Beside]:
    """Every number that the file's published tables have, in their order."""
    found = groups(results)
    return [one for table in asked.published for row in table.rows for one in _of_row(table, row, found, results)]


def _of_row(table: PublishedTable, row: PublishedRow, found: Sequence[Group], results: Results) -> Iterator[Beside]:
    group = _group(table, row, found)
    every = (*results.near, *results.far)
    if row.accuracy is not None:
        yield Beside(table, row, ACCURACY, "", row.accuracy, None if group is None else group.of(ACCURACY))
    for name, number in row.accuracies.items():
        yield Beside(table, row, ACCURACY, name, number, None if group is None else group.shifted(name))
    for metric in PUBLISHED_METRICS:
        for column, number in zip(table.sets, getattr(row, metric), strict=False):
            if number is not None:
                sets = every if column == AVERAGE else (column,)
                yield Beside(table, row, metric, column, number, None if group is None else group.on(sets, metric))


def _group(table: PublishedTable, row: PublishedRow, found: Sequence[Group]) -> Group | None:
    """The rows that a published one stands beside; None where there are none."""
    backbone = row.backbone or table.backbone
    for group in found:
        same = group.method == row.method and group.score == row.score
        if same and row.head in (None, group.head) and backbone in (None, group.backbone):
            return group
    return None


def metric_title(metric: str) -> str:
    """Of a metric, for people."""
    return "accuracy" if metric == ACCURACY else METRICS[metric]


def cell(one: Beside) -> str:
    """Theirs / ours (difference)."""
    theirs = f"{one.published:.2f}".rstrip("0").rstrip(".")
    if one.ours is None or one.difference is None:
        return f"{theirs} / -"
    ours = f"{100 * one.ours.mean:.1f}"
    spread = "" if one.ours.deviation is None else f" ± {100 * one.ours.deviation:.1f}"
    return f"{theirs} / {ours}{spread} ({one.difference:+.1f})"


def laid_out(found: Sequence[Beside]) -> dict[tuple[str, str], dict[str, list[list[Beside | None]]]]:
    """(table, source) -> metric -> lines of cells, a column for each set that has a number of that metric."""
    tables: dict[tuple[str, str], dict[str, list[list[Beside | None]]]] = {}
    for one in found:
        tables.setdefault((one.table.table, one.table.source), {}).setdefault(one.metric, [])
    for key, metrics in tables.items():
        for metric, lines in metrics.items():
            here = [one for one in found if (one.table.table, one.table.source) == key and one.metric == metric]
            columns = list(dict.fromkeys(one.column for one in here))
            rows = list(dict.fromkeys(id(one.row) for one in here))
            by_place = {(id(one.row), one.column): one for one in here}
            lines += [[by_place.get((row, column)) for column in columns] for row in rows]
    return tables


def names_of(lines: Sequence[Sequence[Beside | None]]) -> tuple[list[str], list[str]]:
    """Titles of the columns, and of the lines."""
    columns = [next((cell.column for line in lines if (cell := line[i]) is not None), "") for i in range(len(lines[0]))]
    return [name or "test" for name in columns], [
        next(one for one in line if one is not None).row.row for line in lines
    ]


def published_csv(found: Sequence[Beside]) -> str:
    """A line for each number, in percent."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [
        "table",
        "source",
        "row",
        "method",
        "score",
        "metric",
        "set",
        "published",
        "ours",
        "deviation",
        "difference",
    ]
    writer.writerow(heads)
    for one in found:
        ours = ["", "", ""]
        if one.ours is not None and one.difference is not None:
            deviation = "" if one.ours.deviation is None else f"{100 * one.ours.deviation:.6g}"
            ours = [f"{100 * one.ours.mean:.6g}", deviation, f"{one.difference:.6g}"]
        named = [one.table.table, one.table.source, one.row.row, one.row.method or "", one.row.score or ""]
        writer.writerow([*named, one.metric, one.column, f"{one.published:.6g}", *ours])
    return file.getvalue()
