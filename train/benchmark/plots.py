"""Scatter plots for the report: AUROC against a cost, as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from guard.evaluation.charts import COLOURS, ticks

WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 42
RADIUS = 4.5
LETTER, LINE = 6.7, 13.0  # pixels of a letter's width and of a line's height at the page's 11.5 px
MOST_LABELS = 24


@dataclass(frozen=True)
class Point:
    """A cost and an AUROC in [0, 1]; `label` beside the point, `title` as a tooltip."""

    x: float
    y: float
    label: str
    title: str
    colour: int


@dataclass(frozen=True)
class Box:
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Box) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


def scatter(points: Sequence[Point], x_label: str, title: str, *, y_label: str = "AUROC, %") -> str:
    """One ``<svg>``; the best for their cost, and then the better ones, have labels, as far as these have room."""
    x0, x1 = _extent([p.x for p in points])
    y0, y1 = _extent([p.y for p in points], most=1.0)

    def place(p: Point) -> tuple[float, float]:
        x = LEFT + (p.x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (p.y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = list(_axes((x0, x1), (y0, y1), x_label, y_label))
    places = {p: place(p) for p in points}
    best = front(points)
    if len(best) > 1:
        steps = " ".join(f"{places[p][0]},{places[p][1]}" for p in best)
        parts.append(f'<polyline class="front" points="{steps}"><title>best for the cost</title></polyline>')
    for p in sorted(points, key=lambda p: p in best):
        x, y = places[p]
        look = f"point c{p.colour % COLOURS}" + ("" if p in best else " faint")
        parts.append(f'<circle class="{look}" cx="{x}" cy="{y}" r="{RADIUS}"><title>{escape(p.title)}</title></circle>')
    parts += _labels([*best, *sorted((p for p in points if p not in best), key=lambda p: -p.y)], places)
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}{''.join(parts)}</svg>"


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats at the same or a lower cost, from cheap to dear."""
    found: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if not found or p.y > found[-1].y:
            found.append(p)
    return found


def _extent(values: Sequence[float], most: float = math.inf) -> tuple[float, float]:
    """A range with some room at its ends."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return (low - room if low < 0 else max(0.0, low - room)), min(high + room, max(most, high + 1e-9))


def _axes(x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for tick in ticks(*y, 5):
        at = round(bottom - (tick - y[0]) / (y[1] - y[0]) * (bottom - TOP), 1)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{100 * tick:.4g}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    for tick in ticks(*x, 6):
        at = round(LEFT + (tick - x[0]) / (x[1] - x[0]) * (WIDTH - LEFT - RIGHT), 1)
        yield f'<line class="axis" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{at}" y="{bottom + 17}" text-anchor="middle">{tick:.4g}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    centre = (TOP + bottom) / 2
    turned = f'x="12" y="{centre}" text-anchor="middle" transform="rotate(-90 12 {centre})"'
    yield f"<text {turned}>{escape(y_label)}</text>"


def _labels(points: Sequence[Point], places: dict[Point, tuple[float, float]]) -> list[str]:
    """Texts beside their points, in this order, where they meet neither another text nor a point."""
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places.values()]
    parts: list[str] = []
    for p in points:
        if len(parts) == MOST_LABELS:
            break
        x, y = places[p]
        width = LETTER * len(p.label)
        for dx, dy in ((8, 4), (-8 - width, 4), (-width / 2, -9), (-width / 2, 18), (6, -7), (6, 16)):
            box = Box(x + dx, y + dy - LINE + 3, x + dx + width, y + dy + 3)
            inside = box.x0 >= LEFT and box.x1 <= WIDTH - 4 and box.y0 >= 2 and box.y1 <= HEIGHT - BOTTOM - 2
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                parts.append(f'<text class="label" x="{x + dx:.1f}" y="{y + dy:.1f}">{escape(p.label)}</text>')
                break
    return parts
