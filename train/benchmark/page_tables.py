"""Tables of the report: names with swatches, numbers that can be sorted, the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from guard.evaluation.charts import COLOURS

from .intervals import Difference
from .summary import Group, Spread


def numbers_table(
    found: Sequence[Group],
    by: Sequence[str],
    numbers: dict[str, int],
    heads: Sequence[str],
    values: Sequence[Sequence[Spread | None]],
    written: Sequence[Sequence[str]],
    best: Sequence[Sequence[bool]],
) -> str:
    body = []
    for g, row, texts, marks in zip(found, values, written, best, strict=True):
        cells = "".join(
            f'<td{" class=best" if mark else ""} data-v="{math.nan if v is None else v.mean:.6g}">{text}</td>'
            for v, text, mark in zip(row, texts, marks, strict=True)
        )
        body.append(f"<tr>{name_cells(g, by, numbers)}{cells}</tr>")
    titles = "".join(f"<th>{head}</th>" for head in heads)
    return (
        f'<div class="card scroll"><table class="sortable"><thead><tr>{name_heads(by)}{titles}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def name_heads(by: Sequence[str]) -> str:
    return "<th>method</th>" + "".join(f'<th class="text">{key}</th>' for key in (*by, "score"))


def name_cells(g: Group, by: Sequence[str], numbers: dict[str, int], below: str = "") -> str:
    swatch = f'<span class="swatch c{numbers[g.method] % COLOURS}"></span>'
    others = "".join(f'<td class="text">{escape(getattr(g, key))}</td>' for key in by)
    return f'<th scope="row">{swatch}{escape(g.method)}</th>{others}<td class="text">{escape(g.score)}{below}</td>'


def best_marks(
    values: Sequence[Sequence[Spread | None]], lower: Sequence[bool], unmarked: set[int]
) -> list[list[bool]]:
    """Which cells are the best of their columns, with those written alike; a column of equal cells has none."""
    marks = [[False] * len(lower) for _ in values]
    for i, down in enumerate(lower):
        known = [_shown(cell) for row in values if (cell := row[i]) is not None]
        if i in unmarked or len(set(known)) < 2:
            continue
        top = min(known) if down else max(known)
        for row, mark in zip(values, marks, strict=True):
            cell = row[i]
            mark[i] = cell is not None and _shown(cell) == top
    return marks


def _shown(value: Spread) -> float:
    """To the digit that tables show."""
    return round(100 * value.mean, 1)


def percent_text(value: Spread | None) -> str:
    """Mean and standard deviation in percent, as HTML of a cell."""
    if value is None:
        return "–"
    mean = f"{100 * value.mean:.1f}"
    return mean if value.deviation is None else f"{mean} <i>± {100 * value.deviation:.1f}</i>"


def minutes_text(value: Spread | None) -> str:
    """The mean of seconds in minutes."""
    return "–" if value is None else f"{value.mean / 60:.1f}"


def difference_cell(d: Difference | None) -> str:
    if d is None:
        return "<td>–</td>"
    look = {1: ' class="better"', -1: ' class="worse"', 0: ""}[d.sign]
    below = "" if d.interval is None else f" <i>({signed(d.interval[0])} to {signed(d.interval[1])})</i>"
    return f'<td{look} data-v="{d.mean:.6g}">{signed(d.mean)}{below}</td>'


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
