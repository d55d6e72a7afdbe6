"""Small SVG charts for the report: histograms, ROC curves. Colours come from the page's CSS, so they follow its theme.

Every function returns one ``<svg>`` element as a string. Names are HTML-escaped here; marks carry a ``<title>``, which
browsers show as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 42
BINS = 40


@dataclass(frozen=True)
class Frame:
    """The plotting area: data x in [x0, x1] and y in [0, y1] -> pixels."""

    x0: float
    x1: float
    y1: float

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - value / self.y1 * (HEIGHT - TOP - BOTTOM), 2)

    def axes(self, x_label: str, y_label: str, *, x_percent: bool = False) -> str:
        """Horizontal grid lines, ticks, and both labels; y is a share, shown in percent."""
        parts = []
        for tick in ticks(0, self.y1, 4):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{100 * tick:.4g}</text>')
        bottom = HEIGHT - BOTTOM
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
        for tick in ticks(self.x0, self.x1, 6):
            x, shown = self.x(tick), f"{100 * tick:.4g}" if x_percent else f"{tick:.6g}"
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{shown}</text>')
        middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f'x="12" y="{centre}" text-anchor="middle" transform="rotate(-90 12 {centre})"'
        parts.append(f"<text {turned}>{escape(y_label)}</text>")
        return "".join(parts)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high]."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def score_range(id_scores: np.ndarray, ood_scores: Sequence[np.ndarray], threshold: float) -> tuple[float, float]:
    """One range for all histograms: the middle 99 % of every set and the threshold, but at most three widths of ID
    beyond ID, so that one far set does not squeeze the rest into a line. What lies outside falls into the end bins."""
    id_low, id_high = np.quantile(id_scores.astype(np.float64), [0.005, 0.995])
    width = (id_high - id_low) or abs(id_high) or 1.0
    low, high = id_low, id_high
    for scores in ood_scores:
        ends = np.quantile(scores.astype(np.float64), [0.005, 0.995])
        low, high = min(low, ends[0]), max(high, ends[1])
    low, high = max(low, id_low - 3 * width), min(high, id_high + 3 * width)
    if math.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    return float(low - 0.02 * width), float(high + 0.02 * width)


def score_histogram(
    id_scores: np.ndarray, ood_scores: np.ndarray, threshold: float, extent: tuple[float, float], name: str, colour: int
) -> str:
    """ID (grey) and one OOD set over ood_score, with the threshold; shares of each set per bin."""
    edges = np.linspace(*extent, BINS + 1)
    shares = [_shares(scores, edges) for scores in (id_scores, ood_scores)]
    frame = Frame(*extent, y1=1.18 * max(share.max() for share in shares))
    parts = [frame.axes("ood_score (higher = more out-of-distribution)", "% of images")]
    for share, look in zip(shares, ("id", f"c{colour}"), strict=True):
        parts.append(f'<path class="area {look}" d="{_steps(frame, edges, share)}"/>')
    parts.append(_threshold_line(frame, threshold))
    top = HEIGHT - TOP - BOTTOM
    for i in range(BINS):
        between = f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        between = f"below {edges[1]:.4g}" if i == 0 else f"above {edges[-2]:.4g}" if i == BINS - 1 else between
        title = f"{between}: in-distribution {100 * shares[0][i]:.1f} %, {escape(name)} {100 * shares[1][i]:.1f} %"
        x, width = frame.x(edges[i]), frame.x(edges[i + 1]) - frame.x(edges[i])
        parts.append(
            f'<rect class="hover" x="{x}" y="{TOP}" width="{width:.2f}" height="{top}"><title>{title}</title></rect>'
        )
    return _svg(f"Scores of in-distribution images and of {name}", parts)


def p_value_histogram(p_values: np.ndarray, expected: tuple[float, float], alpha: float, bins: int) -> str:
    """p-values of ID test images: flat if they are exchangeable with the calibration images.

    Args:
        expected: (low, high) share of images per bin that 95 of 100 exchangeable test sets would show.
        alpha: bins at or below it hold what is flagged.
    """
    edges = np.linspace(0, 1, bins + 1)
    share = _shares(p_values, edges + 1e-9)  # p = 1/20 belongs to the bin that ends there
    frame = Frame(0, 1, y1=1.1 * max(share.max(), expected[1]))
    low, high = frame.y(expected[0]), frame.y(expected[1])
    parts = [frame.axes("p-value (percent of calibration images as unusual)", "% of images", x_percent=True)]
    for i in range(bins):
        x, width, y = frame.x(edges[i]), frame.x(edges[i + 1]) - frame.x(edges[i]), frame.y(share[i])
        look = "flagged" if edges[i + 1] <= alpha + 1e-9 else "id"
        title = f"p {100 * edges[i]:.3g} to {100 * edges[i + 1]:.3g} %: {100 * share[i]:.1f} % of images"
        parts.append(
            f'<rect class="bar {look}" x="{x + 1:.2f}" y="{y}" width="{width - 2:.2f}" '
            f'height="{HEIGHT - BOTTOM - y:.2f}"><title>{title}</title></rect>'
        )
    parts.append(
        f'<rect class="band" x="{LEFT}" y="{high}" width="{WIDTH - LEFT - RIGHT}" height="{low - high:.2f}">'
        f"<title>95 of 100 exchangeable test sets: {100 * expected[0]:.1f} to {100 * expected[1]:.1f} % per bin</title>"
        "</rect>"
    )
    even = frame.y(1 / bins)
    parts.append(f'<line class="threshold" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{even}" y2="{even}"/>')
    return _svg("p-values of in-distribution test images", parts)


@dataclass(frozen=True)
class RocLine:
    """One curve: shares in [0, 1] and the point where the guard operates."""

    name: str
    colour: int
    false_alarms: np.ndarray
    detected: np.ndarray
    operating_point: tuple[float, float]


def roc_chart(lines: Sequence[RocLine]) -> str:
    """ROC curves; a dot marks the guard's threshold on each."""
    frame = Frame(0, 1, 1)
    parts = [
        frame.axes("% of in-distribution images flagged (false alarms)", "% of OOD images flagged", x_percent=True)
    ]
    parts.append(
        f'<line class="chance" x1="{frame.x(0)}" y1="{frame.y(0)}" x2="{frame.x(1)}" y2="{frame.y(1)}">'
        "<title>a score that knows nothing</title></line>"
    )
    for line in lines:
        keep = _corners(line.false_alarms, line.detected)
        points = " ".join(
            f"{frame.x(x)},{frame.y(y)}" for x, y in zip(line.false_alarms[keep], line.detected[keep], strict=True)
        )
        dash = ' stroke-dasharray="6 4"' if line.colour >= COLOURS else ""
        parts.append(
            f'<polyline class="curve c{line.colour % COLOURS}"{dash} points="{points}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    for line in lines:
        x, y = line.operating_point
        title = f"{escape(line.name)} at the guard's threshold: {100 * y:.1f} % flagged, {100 * x:.1f} % false alarms"
        parts.append(
            f'<circle class="point c{line.colour % COLOURS}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="4.5">'
            f"<title>{title}</title></circle>"
        )
    return _svg("ROC curves", parts)


COLOURS = 8  # of c0 .. c7 in the page's CSS


def _corners(x: np.ndarray, y: np.ndarray, most: int = 400) -> np.ndarray:
    """Indices of a thinned curve: at most about `most` points, spread along its length, both ends kept."""
    if len(x) <= most:
        return np.arange(len(x))
    length = x + y  # both ascend from 0 to 1
    return np.unique(np.append(np.searchsorted(length, np.linspace(0, 2, most)), len(x) - 1).clip(0, len(x) - 1))


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of values per bin; what lies outside counts in the end bins."""
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return np.bincount(places, minlength=len(edges) - 1) / len(values)


def _steps(frame: Frame, edges: np.ndarray, share: np.ndarray) -> str:
    path = [f"M{frame.x(edges[0])},{frame.y(0)}"]
    for i, value in enumerate(share):
        path.append(f"V{frame.y(value)}H{frame.x(edges[i + 1])}")
    return "".join(path) + f"V{frame.y(0)}Z"


def _threshold_line(frame: Frame, threshold: float) -> str:
    if not math.isfinite(threshold):
        return ""
    x = frame.x(threshold)
    anchor, shift = ("end", -5) if x > WIDTH * 0.7 else ("start", 5)
    return (
        f'<line class="threshold" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="strong" x="{x + shift}" y="{TOP + 8}" text-anchor="{anchor}">'
        f"flagged above {threshold:.4g}</text>"
    )


def _svg(title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )
