"""The plan of a benchmark for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .expected import Line, Outlook
from .speeds import EVERY

GB = 1e9


def written(plan: Outlook) -> str:
    """All of it."""
    parts = [_head(plan), _inputs(plan), _weights(plan), _tasks(plan), _totals(plan), _rules(plan)]
    return "\n\n".join(part for part in parts if part)


def _head(plan: Outlook) -> str:
    a = plan.asked
    seeds = ", ".join(map(str, a.seeds))
    runs = f"{plan.runs} run{'s' if plan.runs > 1 else ''}"
    return f"{a.name}: {runs} of {', '.join(a.backbones)}; seeds {seeds}; into {a.out}"


def _inputs(plan: Outlook) -> str:
    rows = [
        [one.name, one.given[:60], "unknown" if one.images is None else f"{one.images:,}", _here(one.there), one.about]
        for one in plan.inputs
    ]
    return _table(["reads", "from", "images", "here", ""], rows, numbers={2})


def _here(there: bool) -> str:
    return "yes" if there else "missing"


def _weights(plan: Outlook) -> str:
    rows = [[one.option, one.name, _here(one.there), one.about] for one in plan.weights]
    return _table(["weights for", "from", "here", ""], rows) if rows else ""


def _tasks(plan: Outlook) -> str:
    rows = [
        [line.task.kind, line.method, line.task.what, line.task.amount, f"{line.times}", *_numbers(line)]
        for line in plan.lines
    ]
    heads = ["", "method", "what", "amount", "times", "GPU hours", "GB", "left"]
    return _table(heads, rows, numbers={4, 5, 6, 7})


def _numbers(line: Line) -> list[str]:
    hours = line.task.hours
    shown = "unknown" if hours is None else "-" if not hours else f"{_short(hours * line.times)} {line.task.speed.gpu}"
    size = f"{line.task.size * line.times / GB:.2f}" if line.task.size else "-"
    return [shown, size, "done" if not line.left else f"{line.left:.3g}"]


def _short(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2g}"


def _totals(plan: Outlook) -> str:
    left = f"; left: {_by_gpu(plan.hours(left=True))}" if any(line.left < line.times for line in plan.lines) else ""
    lines = [f"in all: {_by_gpu(plan.hours())}, {plan.disk / GB:.1f} GB at most{left}"]
    if plan.spent:
        lines.append(f"trainings took {plan.spent:.1f} h so far, on the machine that they ran on")
    if plan.unknown:
        names = dict.fromkeys(f"{line.task.what} ({line.method})" for line in plan.unknown)
        lines.append(f"not in the hours, for no time was reported: {', '.join(names)}")
    if plan.missing:
        lines.append(f"missing on this machine: {', '.join(plan.missing)}")
    return "\n".join(lines)


def _by_gpu(hours: Mapping[str, float]) -> str:
    return " + ".join(f"{_short(h)} {gpu} hours" for gpu, h in hours.items()) or "no hours"


def _rules(plan: Outlook) -> str:
    used = {line.task.speed for line in plan.lines if line.task.hours}
    lines = ["The hours are an estimate, work divided by speed; a training step costs three forward passes. Speeds:"]
    for speed in EVERY:
        if speed in used:
            lines.append(f"  {speed.gpu}: {speed.per_second:.3g} {speed.unit} a second, from {speed.origin}")
    lines.append(
        "What is done is told by names and settings in the folder; the benchmark itself compares the images too."
    )
    return "\n".join(lines) if used else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Aligned columns, numbers to the right."""
    lines, right = [list(heads), *map(list, rows)], set(numbers)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
