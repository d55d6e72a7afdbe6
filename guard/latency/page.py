"""The page of ``guard bench``: images per second by batch size, and the table."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..artefact.files import write_atomic
from ..evaluation.charts import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, WIDTH, Frame, ticks
from ..evaluation.page import framed
from .machine import describe
from .result import Latency, LatencyRow


def write_page(found: Latency, path: Path) -> Path:
    """Write ``<name>.html`` and ``<name>.json``; returns the path of the first."""
    write_atomic(path.with_suffix(".json"), found.model_dump_json(indent=1).encode())
    return write_atomic(path, page(found).encode())


def page(found: Latency) -> str:
    """One self-contained HTML page."""
    threads = "the runtime's own number of threads"
    if found.threads is not None:
        threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    header = (
        f'<h1>Latency</h1><p class="lead">{found.rounds} rounds in turn; ratios are of time, to '
        f"{escape(found.compared_with)} in the same round; {threads}.</p>"
    )
    return framed(
        title="Latency",
        header=header,
        main=f"<h2>Images per second</h2>{_bars(found)}<h2>All numbers</h2>{_table(found)}",
        footer=f"<p>{escape(describe(found.machine))}</p>",
        style=" .card > svg { max-width: 40rem; } th[scope=row] { min-width: 16rem; }",
    )


def _bars(found: Latency) -> str:
    """A group of bars per batch size, a bar per contender."""
    batches = list(dict.fromkeys(row.batch for row in found.rows))
    names = list(dict.fromkeys(_name(row) for row in found.rows))
    most = max(row.images_per_second for row in found.rows)
    frame = Frame(0, len(batches), y1=1.05 * most)
    parts = []
    for tick in ticks(0, frame.y1, 4):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:.6g}</text>')
    width = 0.8 / len(names)
    for row in found.rows:
        at = batches.index(row.batch) + 0.1 + names.index(_name(row)) * width
        x, y = frame.x(at), frame.y(row.images_per_second)
        title = f"{escape(_name(row))}, batch {row.batch}: {row.images_per_second:.0f} images/s, ratio {row.ratio:.3f}"
        look = f"area c{names.index(_name(row)) % COLOURS}"
        parts.append(
            f'<rect class="{look}" x="{x}" y="{y}" width="{frame.x(at + width) - x - 1:.2f}" '
            f'height="{HEIGHT - BOTTOM - y:.2f}"><title>{title}</title></rect>'
        )
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for i, batch in enumerate(batches):
        parts.append(f'<text x="{frame.x(i + 0.5)}" y="{bottom + 17}" text-anchor="middle">batch {batch}</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Images per second by batch size"'
    legend = "".join(
        f'<li><span class="swatch c{i % COLOURS}"></span>{escape(name)}</li>' for i, name in enumerate(names)
    )
    return f'<div class="card"><svg {box}>{"".join(parts)}</svg><ul class="legend">{legend}</ul></div>'


def _name(row: LatencyRow) -> str:
    return f"{row.contender}, {row.precision}, {row.runtime} {row.device}"


def _table(found: Latency) -> str:
    head = ("", "batch", "p50, ms", "p99, ms", "images/s", "ratio", "quartiles", "memory, MiB")
    heads, lines = "".join(f'<th scope="col">{cell}</th>' for cell in head), []
    for row in found.rows:
        cells = (
            escape(_name(row)),
            row.batch,
            f"{row.p50_ms:.3g}",
            f"{row.p99_ms:.3g}",
            f"{row.images_per_second:.0f}",
            f"{row.ratio:.3f}",
            f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
            "" if row.memory_mib is None else f"{row.memory_mib:.0f}",
        )
        first, *others = cells
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    rows = "".join(lines)
    return f'<div class="card scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
