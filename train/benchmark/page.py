"""report.html of a benchmark: one page that opens from disk, in the frame of `guard.evaluation.report`.

Its only script sorts the tables by the column that is clicked; without it they are sorted by near and far together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from guard.benchmark_file import BenchmarkFile
from guard.evaluation.charts import COLOURS
from guard.evaluation.page import framed

from .differences import Compared, compared
from .intervals import RESAMPLES
from .page_tables import (
    best_marks,
    difference_cell,
    minutes_text,
    name_cells,
    name_heads,
    numbers_table,
    percent_text,
)
from .plots import Point, scatter
from .published import beside
from .published_page import published_section
from .results import Results
from .summary import LOWER, MEANINGS, METRICS, Group, Spread, columns, groups, left_out, varying
from .tables import percent

_SORT = """
document.querySelectorAll("table.sortable thead th").forEach(th => th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], at = th.cellIndex, up = th.dataset.up === "1";
  const key = row => { const v = row.cells[at].dataset.v; return v === undefined ? row.cells[at].textContent : +v; };
  const order = (a, b) => { const x = key(a), y = key(b); return x < y ? -1 : x > y ? 1 : 0; };
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach(row => body.append(row));
  th.closest("tr").querySelectorAll("th").forEach(other => delete other.dataset.sorted);
  th.dataset.sorted = up ? "↑" : "↓"; th.dataset.up = up ? "0" : "1";
}));
"""
_STYLE = """
header, main, footer { max-width: 88rem; }
table.sortable { font-size: .875rem; }
table.sortable th, table.sortable td { padding: .28rem .6rem; }
table.sortable thead th { cursor: pointer; font-size: .75rem; }
table.sortable tbody th { white-space: nowrap; }
table.sortable tbody tr:hover { background: var(--page); }
td i { font-style: normal; font-weight: 400; font-size: .75rem; color: var(--soft); }
summary { padding: .25rem 0; }
table.sortable thead th[data-sorted]::after { content: " " attr(data-sorted); color: var(--text); }
td.best { background: var(--good-back); color: var(--good); font-weight: 700; }
td.worse { color: var(--bad); }
td.better { color: var(--good); font-weight: 600; }
tbody th, td.text { text-align: left; }
th.text { text-align: left; }
td.text { white-space: nowrap; }
svg text.label { paint-order: stroke; stroke: var(--card); stroke-width: 3; stroke-linejoin: round; }
svg .front { fill: none; stroke: var(--soft); stroke-dasharray: 2 4; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1rem; }
svg .point.faint { fill-opacity: .45; }
"""

Cells = Sequence[tuple[str, float | None]]  # text, and the number that the column is sorted by


def render(asked: BenchmarkFile, results: Results) -> str:
    """The whole page."""
    found, by = sorted(groups(results), key=lambda g: -_both(results, g)), varying(results)
    baseline = asked.baseline or next(iter(asked.methods))
    numbers = {name: i for i, name in enumerate(asked.methods)}
    sections = [
        _tiles(results, found),
        _overview(results, found, by, numbers),
        _sets(results, found, by, numbers),
        _plots(results, found, by, numbers),
        _paired(compared(results, found, baseline), by, baseline, numbers),
        _without(results, found, by, numbers),
        published_section(beside(asked, results)),
        _words(asked),
    ]
    return framed(
        title=f"{asked.name}: benchmark",
        header=_header(asked, results),
        main="\n".join(part for part in sections if part),
        footer=f"Made by ood-guard. {_how(results)}",
        style=_STYLE,
        script=_SORT,
    )


def _both(results: Results, group: Group) -> float:
    """The mean of near and far AUROC, by which the report ranks."""
    kinds = [group.on(names, "auroc") for names in (results.near, results.far) if names]
    return sum(kind.mean for kind in kinds if kind is not None) / max(1, len(kinds))


def _header(asked: BenchmarkFile, results: Results) -> str:
    seeds = sorted({row["seed"] for row in results.rows})
    facts = {
        "backbones": ", ".join(dict.fromkeys(row["backbone"] for row in results.rows)),
        "epochs": str(asked.epochs or "each method's"),
        "seeds": ", ".join(map(str, seeds)),
        "methods": str(len({row["method"] for row in results.rows})),
        "scores": str(len({row["score"] for row in results.rows})),
        "near": ", ".join(results.near) or "none",
        "far": ", ".join(results.far) or "none",
        "target": f"{100 * asked.alpha:.4g}\N{NO-BREAK SPACE}% false alarms",
    }
    items = "".join(f"<li><span>{key}</span> {escape(value)}</li>" for key, value in facts.items())
    return f'<h1>{escape(asked.name)} <small>benchmark</small></h1>\n<ul class="facts">{items}</ul>'


def _tiles(results: Results, found: Sequence[Group]) -> str:
    tiles = []
    for title, names in (("best near", results.near), ("best far", results.far)):
        ranked = [(value.mean, g, value) for g in found if (value := g.on(names, "auroc")) is not None]
        if ranked:
            _, group, value = max(ranked, key=lambda item: item[0])
            tiles.append(_tile(f"{title}: AUROC", percent(value), group.method, group.score))
    if len(tiles) == 2:  # without near or far sets there is no both
        both = found[0]
        tiles.append(_tile("best of both, AUROC", f"{100 * _both(results, both):.1f}", both.method, both.score))
    if found:
        first = max(found, key=lambda g: g.of("accuracy").mean)
        tiles.append(_tile("best accuracy", percent(first.of("accuracy")), first.method, ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(title: str, number: str, *lines: str) -> str:
    below = "".join(f"<small>{escape(line)}</small>" for line in lines if line)
    return f'<div class="card tile"><span class="soft">{escape(title)}</span><b>{escape(number)}</b>{below}</div>'


def _overview(results: Results, found: Sequence[Group], by: Sequence[str], numbers: dict[str, int]) -> str:
    kinds = [(name, sets) for name, sets in (("near", results.near), ("far", results.far)) if sets]
    shown: list[tuple[str, bool, Callable[[Group], Spread | None]]] = []
    for metric, short in (
        ("auroc", "AUROC"),
        ("fpr_at_95_id_tpr", "FPR95<br>ID TPR"),
        ("fpr_at_95_ood_tpr", "FPR95<br>OOD TPR"),
    ):
        for name, sets in kinds:
            shown.append((f"{short}<br>{name}", metric in LOWER, partial(Group.on, names=sets, metric=metric)))
    shown.insert(0, ("accuracy", False, lambda g: g.of("accuracy")))
    shown.append(("false<br>alarms", True, lambda g: g.of("false_alarm_rate")))
    shown.append(("training<br>minutes", True, lambda g: g.of("train_seconds")))
    shown.append(("speed, % of<br>bare classifier", False, lambda g: g.of("speed_relative")))
    heads = [f"{title} {'↓' if lower else '↑'}" for title, lower, _ in shown]
    values = [[take(g) for _, _, take in shown] for g in found]
    unmarked = {len(shown) - 3}  # a false-alarm rate is best at its target
    minutes = len(shown) - 2
    written = [[minutes_text(v) if i == minutes else percent_text(v) for i, v in enumerate(row)] for row in values]
    best = best_marks(values, [lower for _, lower, _ in shown], unmarked)
    return (
        "<h2>Methods and scores</h2>"
        '<p class="lead">In percent; ± is the standard deviation over seeds. Sorted by the mean of near and far AUROC; '
        "click a heading to sort by it. The best of each column is marked.</p>"
        + numbers_table(found, by, numbers, heads, values, written, best)
    )


def _sets(results: Results, found: Sequence[Group], by: Sequence[str], numbers: dict[str, int]) -> str:
    theirs = any("theirs" in one for g in found for row in g.rows for one in row["ood"].values())
    parts = []
    for metric, title in METRICS.items():
        shown = columns(results)
        values = [[g.on(sets, metric) for sets in shown.values()] for g in found]
        written = [[percent_text(value) for value in row] for row in values]
        if theirs and metric in ("auroc", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr"):
            for g, row in zip(found, written, strict=True):
                for i, sets in enumerate(shown.values()):
                    other = g.on(sets, metric, "theirs")
                    row[i] += f"<small>{percent_text(other)}</small>" if other else ""
        lower = metric in LOWER
        note = f"{MEANINGS[metric]}; {'lower' if lower else 'higher'} is better."
        note += (
            " Below: pytorch-ood’s detector on the same features and logits."
            if theirs and "small" in written[0][0]
            else ""
        )
        best = best_marks(values, [lower] * len(shown), set())
        heads = [escape(name) for name in shown]
        table = numbers_table(found, by, numbers, heads, values, written, best)
        opened = " open" if metric == "auroc" else ""
        parts.append(
            f"<details{opened}><summary>{title}</summary>"
            f'<p class="lead">{note[0].upper()}{note[1:]}</p>{table}</details>'
        )
    return f"<h2>Each OOD set</h2>{''.join(parts)}"


def _plots(results: Results, found: Sequence[Group], by: Sequence[str], numbers: dict[str, int]) -> str:
    cards = []
    for cost, label in (
        ("train_seconds", "training minutes, with the run that it starts from"),
        ("slowdown", "time per image; the bare classifier is 1"),
    ):
        for name, sets in (("near", results.near), ("far", results.far)):
            points = [_point(g, sets, cost, by, numbers) for g in found]
            drawn = [p for p in points if p is not None]
            if drawn:
                title = f"AUROC {name} against {'training' if cost == 'train_seconds' else 'inference'} cost"
                cards.append(f'<div class="card"><h3>{title}</h3>{scatter(drawn, label, title)}</div>')
    legend = "".join(
        f'<li><span class="swatch c{i % COLOURS}"></span>{escape(name)}</li>' for name, i in numbers.items()
    )
    return (
        "<h2>Cost</h2>"
        '<p class="lead">A point is a method with a score. The dotted line joins those that nothing beats at '
        "their cost or a lower one; point at one for its numbers.</p>"
        f'<ul class="legend" style="margin-bottom:.75rem">{legend}</ul><div class="plots">{"".join(cards)}</div>'
    )


def _point(g: Group, sets: Sequence[str], cost: str, by: Sequence[str], numbers: dict[str, int]) -> Point | None:
    value = g.on(sets, "auroc")
    if value is None:
        return None
    x = g.of("train_seconds").mean / 60 if cost == "train_seconds" else 1 / g.of("speed_relative").mean
    label = " · ".join([g.method, *(getattr(g, key) for key in by), g.score])
    shown = f"{x:.1f} min" if cost == "train_seconds" else f"{100 * x:.1f} % of the bare classifier’s time"
    return Point(x, value.mean, label, f"{label}: AUROC {percent(value)}, {shown}", numbers[g.method])


def _paired(found: Sequence[Compared], by: Sequence[str], baseline: str, numbers: dict[str, int]) -> str:
    if not found:
        return ""
    over = {d.over for c in found for d in (c.near, c.far) if d is not None}
    how = (
        "95 % intervals by Student’s t over the differences of equal seeds"
        if "seeds" in over
        else f"One seed: 95 % intervals by {RESAMPLES} bootstrap resamples of the images, the same for both; they do "
        "not say what another training would give"
    )
    body = []
    for c in found:
        other = "" if c.baseline.score == c.group.score else f"<small>against {escape(c.baseline.score)}</small>"
        cells = "".join(difference_cell(d) for d in (c.near, c.far))
        body.append(f"<tr>{name_cells(c.group, by, numbers, other)}{cells}</tr>")
    heads = "".join(f"<th>{h}</th>" for h in ("near AUROC", "far AUROC"))
    return (
        f"<h2>Differences to {escape(baseline)}</h2>"
        f'<p class="lead">AUROC in points, each against {escape(baseline)} with the same score. {how}. '
        "Coloured where the interval leaves out 0.</p>"
        f'<div class="card scroll"><table class="sortable"><thead><tr>{name_heads(by)}{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _without(results: Results, found: Sequence[Group], by: Sequence[str], numbers: dict[str, int]) -> str:
    names = (*results.near, *results.far)
    if len(names) < 2 or len(found) < 2:
        return ""
    values = [[g.on(names, "auroc"), *(left_out(g, names, name) for name in names)] for g in found]
    heads = ["all sets", *(f"without<br>{escape(name)}" for name in names)]
    best = best_marks(values, [False] * len(heads), set())
    marked = [[g for g, marks in zip(found, best, strict=True) if marks[i]] for i in range(1, len(heads))]
    winners = [(column or found)[0] for column in marked]  # of equal ones the better over all
    kinds = list(dict.fromkeys((g.method, g.score) for g in winners))
    said = (
        f"{kinds[0][0]} with {kinds[0][1]} is best whichever set is left out"
        if len(kinds) == 1
        else "The best depends on a set: "
        + "; ".join(f"{g.method} with {g.score} without {n}" for n, g in zip(names, winners, strict=True))
    )
    written = [[percent_text(value) for value in row] for row in values]
    return (
        "<h2>Each OOD set left out</h2>"
        f'<p class="lead">AUROC, the mean over the other sets, near and far alike. {escape(said)}.</p>'
        + numbers_table(found, by, numbers, heads, values, written, best)
    )


def _words(asked: BenchmarkFile) -> str:
    meant: dict[str, Any] = {title: MEANINGS[metric] for metric, title in METRICS.items()}
    meant |= {
        "false alarms": f"test images flagged at the threshold, whose target is {100 * asked.alpha:.4g} %",
        "training minutes": "of the run and of those that it starts from, on the machine that trained it; a model that "
        "several runs share is in those of the run that trained it, and filling the stores of the file is in none",
        "speed": "images per second of classifier and score, of the bare classifier’s; measured in turns",
        "near, far": "OOD images close to the classes, or unlike any of them; a mean counts each set the same",
    }
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in meant.items())
    return (
        '<h2>Details</h2><div class="card"><details style="margin:0"><summary>What the words mean</summary>'
        f"<dl>{rows}</dl></details></div>"
    )


def _how(results: Results) -> str:
    return f"{len(results.rows)} rows: results.csv has every number."
