"""Published numbers and ours on the report's page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .published import BESIDE, Beside, laid_out, metric_title, names_of


def published_section(found: Sequence[Beside]) -> str:
    """A table for each published one and metric; "" where nothing was published."""
    if not found:
        return ""
    parts = [f'<h2>Beside what was published</h2><p class="lead">{escape(BESIDE)}.</p>']
    for (name, source), metrics in laid_out(found).items():
        tables = "".join(_table(metric_title(metric), lines) for metric, lines in metrics.items())
        parts.append(
            f'<details open><summary>{escape(name)}</summary><p class="lead">{escape(source)}.</p>{tables}</details>'
        )
    return "".join(parts)


def _table(metric: str, lines: Sequence[Sequence[Beside | None]]) -> str:
    columns, rows = names_of(lines)
    heads = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{escape(row)}</th>{''.join(map(_cell, line))}</tr>" for row, line in zip(rows, lines, strict=True)
    )
    return (
        f'<div class="card scroll"><table class="sortable"><thead><tr><th class="text">{escape(metric)}</th>{heads}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(one: Beside | None) -> str:
    if one is None:
        return "<td></td>"
    theirs = f"{one.published:.2f}".rstrip("0").rstrip(".")
    if one.ours is None or one.difference is None:
        return f'<td data-v="-1">{theirs} <i>/ –</i></td>'
    spread = "" if one.ours.deviation is None else f" ± {100 * one.ours.deviation:.1f}"
    ours, by = 100 * one.ours.mean, f"{one.difference:+.1f}".replace("-", "−")
    return f'<td data-v="{ours:.6g}">{theirs} / <b>{ours:.1f}</b><i>{spread} ({by})</i></td>'
