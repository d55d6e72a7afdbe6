"""A drift report as one HTML file that opens from disk, with the numbers as JSON beside it."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from ..artefact.files import write_atomic
from ..evaluation.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks
from ..evaluation.page import framed
from .report import DriftReport

_CHECK = "M5 12.5l4.5 4.5L19 7.5"
_WARNING = "M12 8v5m0 3.5v.01M12 3l10 18H2z"


def write_page(report: DriftReport, path: Path) -> Path:
    """Write ``<name>.html`` and ``<name>.json``; returns the path of the first."""
    write_atomic(path.with_suffix(".json"), report.model_dump_json(indent=1).encode() + b"\n")
    return write_atomic(path, render(report).encode())


def headline(report: DriftReport) -> str:
    """The finding in a sentence."""
    often = f"at most {100 * report.alpha:.3g} % of ordinary streams ever raise this alarm"
    if report.alarm:
        return f"Drift: the alarm was raised at image {report.alarm_at} of {report.images} ({often})"
    return f"No drift found in {report.images} images ({often})"


def evidence(log10_capital: float) -> str:
    """The capital in words."""
    if log10_capital >= 6:
        return f"10^{log10_capital:.0f}"
    return f"{10**log10_capital:.3g}"


def render(report: DriftReport) -> str:
    """The whole page."""
    look, sign = ("bad", _WARNING) if report.alarm else ("good", _CHECK)
    verdict = (
        f'<div class="verdict {look}"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="{sign}"/></svg><div><strong>'
        f"{escape(headline(report))}</strong><span>Evidence now {evidence(report.log10_capital)}, at most "
        f"{evidence(report.log10_largest)}; the alarm is raised at {1 / report.alpha:.4g}.</span></div></div>"
    )
    tiles = {"images": f"{report.images}", "calibration images": f"{report.calibration_images}"}
    if report.flag_rate is not None:
        low, high = 100 * report.flag_rate_low, 100 * report.flag_rate_high
        tiles[f"flagged; 95 % interval {low:.1f} to {high:.1f} %"] = f"{100 * report.flag_rate:.1f} %"
    facts = "".join(
        f'<div class="card tile"><b>{n}</b><small>{escape(name)}</small></div>' for name, n in tiles.items()
    )
    chart = f'<h2>Evidence against “as the calibration images”</h2><div class="card">{curve_chart(report)}</div>'
    return framed(
        title="drift report",
        header=f"<h1>Drift <small>{escape(report.model)}</small></h1>",
        main="\n".join([verdict, f'<div class="tiles">{facts}</div>', chart, _classes(report)]),
        footer="<p>A conformal test martingale; docs/monitoring.md says what it promises.</p>",
        style="polyline { fill: none; }",
    )


def curve_chart(report: DriftReport) -> str:
    """The capital over images, on a logarithmic axis, with the line of the alarm."""
    points = [(0, 0.0), *((p.images, p.log10_capital) for p in report.curve)]
    top = max(report.log10_alarm * 1.15, max(y for _, y in points) * 1.05)
    low = min(-0.5, *(y for _, y in points))
    last = max(points[-1][0], 1)

    def x(images: float) -> float:
        return round(LEFT + images / last * (WIDTH - LEFT - RIGHT), 1)

    def y(log10: float) -> float:
        return round(HEIGHT - BOTTOM - (log10 - low) / (top - low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for tick in ticks(low, top, 4):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{_power(tick)}</text>')
    for tick in ticks(0, last, 5):
        parts.append(f'<text x="{x(tick)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:.6g}</text>')
    line = " ".join(f"{x(n)},{y(value)}" for n, value in points)
    at = y(report.log10_alarm)
    parts += [
        f'<line class="threshold" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>',
        f'<text class="strong" x="{WIDTH - RIGHT}" y="{at - 5}" text-anchor="end">alarm</text>',
        f'<polyline class="curve c1" points="{line}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">images</text>',
    ]
    label = f"Evidence for drift over {report.images} images"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _power(log10: float) -> str:
    return f"{10**log10:.3g}" if abs(log10) < 4 else f"1e{math.floor(log10)}"


def _classes(report: DriftReport) -> str:
    rows = [c for c in sorted(report.classes, key=lambda c: -c.images) if c.flag_rate is not None]
    if not rows:
        return ""
    body = "".join(
        f"<tr><th>{escape(c.class_name)}</th><td>{c.images}</td><td>{c.flagged}</td>"
        f"<td>{100 * (c.flag_rate or 0):.1f} %</td>"
        f"<td>{100 * c.flag_rate_low:.1f} to {100 * c.flag_rate_high:.1f} %</td></tr>"
        for c in rows
    )
    head = "<tr><th>predicted class</th><th>images</th><th>flagged</th><th>rate</th><th>95 % interval</th></tr>"
    table = f'<div class="card scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    return f"<h2>By predicted class</h2>{table}"
