"""results.csv, a line for each row; results.md, a table for each metric; the short table of a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from guard.benchmark_file import BenchmarkFile

from .published import BESIDE, Beside, beside, cell, laid_out, metric_title, names_of
from .results import Results
from .summary import (
    CHOICE,
    LOWER,
    MEANINGS,
    METRICS,
    Group,
    Spread,
    choices,
    columns,
    groups,
    left_out,
    mean_over,
    trained_over,
    varying,
)

OWN = ("backbone", "method", "head", "score", "seed", "accuracy", "false_alarm_rate", "train_seconds")
SPEED = ("images_per_second", "bare_images_per_second", "speed_relative", "speed_low", "speed_high")
THEIRS = ("auroc", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr")


def csv_text(results: Results) -> str:
    """One line for each row and seed. Columns ``METRIC NAME`` are of an OOD set, or of the mean of near or far."""
    shown = columns(results)
    cells = [(metric, name) for metric in METRICS for name in shown]
    theirs = [(metric, name) for metric in THEIRS for name in shown] if _compared(results) else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{metric} {name}" for metric, name in cells]
    choice = [CHOICE] if choices(results) else []
    writer.writerow([*choice, *OWN, *SPEED, *heads, *(f"pytorch-ood {metric} {name}" for metric, name in theirs)])
    for row in results.rows:
        numbers: list[Any] = [mean_over(row, shown[name], metric) for metric, name in cells]
        numbers += [mean_over(row, shown[name], metric, "theirs") for metric, name in theirs]
        own = [row[key] for key in (*choice, *OWN, *SPEED)]
        writer.writerow([_written(value) for value in (*own, *numbers)])
    return file.getvalue()


def _written(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _compared(results: Results) -> bool:
    return any("theirs" in numbers for row in results.rows for numbers in row["ood"].values())


def percent(value: Spread | None) -> str:
    """Mean and standard deviation in percent."""
    if value is None:
        return "-"
    mean = f"{100 * value.mean:.1f}"
    return mean if value.deviation is None else f"{mean} ± {100 * value.deviation:.1f}"


def markdown(asked: BenchmarkFile, results: Results) -> str:
    """The tables, in percent."""
    found, shown, by = groups(results), columns(results), varying(results)
    lines = [f"# {asked.name}", "", settings_line(asked, results), ""]
    lines += ["## Accuracy and cost", "", _cost_table(found, by), ""]
    for metric, title in METRICS.items():
        better = "lower" if metric in LOWER else "higher"
        lines += [f"## {title}", "", f"{_capital(MEANINGS[metric])}; {better} is better.", ""]
        rows = [[*names(g, by), *(percent(g.on(sets, metric)) for sets in shown.values())] for g in found]
        lines += [table([*heads(by), *shown], rows), ""]
    if _compared(results):
        rows = [
            [*names(g, by), *(percent(g.on(sets, "auroc", "theirs")) for sets in shown.values())]
            for g in found
            if any("theirs" in numbers for numbers in g.rows[0]["ood"].values())
        ]
        lines += ["## AUROC of pytorch-ood", "", "Its detectors on the very same features and logits.", ""]
        lines += [table([*heads(by), *shown], rows), ""]
    if len(choices(results)) > 1:
        lines += ["## Each choice of left-out classes", "", "AUROC near and far, over seeds.", ""]
        lines += [_by_choice(results, found, by), ""]
    lines += _published(beside(asked, results))
    every = (*results.near, *results.far)
    if len(every) > 1:
        rows = [[*names(g, by), *(percent(left_out(g, every, name)) for name in every)] for g in found]
        lines += ["## Each OOD set left out", "", "AUROC: the mean over all other sets, near and far.", ""]
        lines += [table([*heads(by), *(f"without {name}" for name in every)], rows), ""]
    return "\n".join(lines)


def _by_choice(results: Results, found: Sequence[Group], by: Sequence[str]) -> str:
    means = {name: sets for name, sets in (("near", results.near), ("far", results.far)) if sets}
    rows = []
    for g in found:
        parts = [g.of_choice(choice) for choice in choices(results)]
        cells = [percent(part.on(sets, "auroc")) if part.rows else "-" for part in parts for sets in means.values()]
        rows.append([*names(g, by), *cells])
    return table([*heads(by), *(f"{choice}: {name}" for choice in choices(results) for name in means)], rows)


def _published(found: Sequence[Beside]) -> list[str]:
    """Published tables, each number with ours beside it."""
    lines = ["## Beside what was published", "", f"{BESIDE}.", ""] if found else []
    for (name, source), metrics in laid_out(found).items():
        lines += [f"### {name}", "", f"{source}.", ""]
        for metric, cells in metrics.items():
            columns, rows = names_of(cells)
            body = [
                [row, *("" if one is None else cell(one) for one in line)]
                for row, line in zip(rows, cells, strict=True)
            ]
            lines += [table([metric_title(metric), *columns], body), ""]
    return lines


def settings_line(asked: BenchmarkFile, results: Results) -> str:
    """What all rows have in common, as sentences."""
    seeds = sorted({row["seed"] for row in results.rows})
    epochs = f"{asked.epochs} epochs, " if asked.epochs else ""
    several = len(seeds) > 1 or len(choices(results)) > 1
    note = f"± is the standard deviation over {trained_over(results)}" if several else "one seed: the spread is unknown"
    left_out = f" Left out: {'; '.join(choices(results))}." if choices(results) else ""
    return (
        f"{', '.join(dict.fromkeys(row['backbone'] for row in results.rows))}, {epochs}seeds "
        f"{', '.join(map(str, seeds))}; percent, {note}. Near: {', '.join(results.near) or 'none'}; "
        f"far: {', '.join(results.far) or 'none'}.{left_out}"
    )


def _cost_table(found: Sequence[Group], by: Sequence[str]) -> str:
    rows = []
    for g in found:
        own = [str(len(g.rows)), percent(g.of("accuracy")), percent(g.of("false_alarm_rate"))]
        own += [f"{g.of('train_seconds').mean / 60:.1f}", f"{g.of('images_per_second').mean:.0f}"]
        rows.append([*names(g, by), *own, f"{g.of('speed_relative').mean:.2f}"])
    titles = [
        "runs" if any(CHOICE in row for g in found for row in g.rows) else "seeds",
        "accuracy",
        "false alarms",
        "training, min",
        "images/s",
        "of the bare classifier's",
    ]
    return table([*heads(by), *titles], rows)


def heads(by: Sequence[str]) -> list[str]:
    """Titles of `names`."""
    return ["method", *by, "score"]


def names(group: Group, by: Sequence[str]) -> list[str]:
    """What a row is of."""
    return [group.method, *(getattr(group, key) for key in by), group.score]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(titles), "|" + " --- |" * len(titles), *map(line, rows)])


def short_table(results: Results) -> str:
    """Accuracy, AUROC and the papers' FPR95 near and far, and speed; aligned, for the terminal."""
    by = varying(results)
    means = {name: sets for name, sets in (("near", results.near), ("far", results.far)) if sets}
    shown = [("auroc", "AUROC"), ("fpr_at_95_id_tpr", "FPR95")]
    titles = [*heads(by), "accuracy", *(f"{short} {name}" for _, short in shown for name in means), "speed"]
    lines = [titles]
    for g in groups(results):
        numbers = [percent(g.on(sets, metric)) for metric, _ in shown for sets in means.values()]
        lines.append([*names(g, by), percent(g.of("accuracy")), *numbers, f"{g.of('speed_relative').mean:.2f}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    text = len(heads(by))
    return "\n".join(
        "  ".join(c.ljust(w) if i < text else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
