"""Tables for people, JSON for programs. No colour codes where standard output is not a terminal (rich sees to it)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..manifest import Manifest
from ..verdict import Verdict

_PIPED_WIDTH = 200  # rich takes 80 columns for a pipe, and would cut paths


def console() -> Console:
    """Standard output; nothing in what users named (paths, classes) is taken for markup."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=_PIPED_WIDTH if piped else None)


def print_json(value: Any) -> None:
    """One JSON value; numbers that JSON does not know (an infinite threshold, NaN) become null."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=not utf8, allow_nan=False))


def plain(value: Any) -> Any:
    """Records, dataclasses, arrays, paths -> what json can write."""
    for method in ("to_dict", "model_dump"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def print_verdicts(answers: Iterable[tuple[Path, Verdict]], identity: str) -> None:
    """One row per image."""
    answers = list(answers)
    shown = table("image", "label", "probability", "ood_score", "p", "flag", numeric=(2, 3, 4))
    for path, v in answers:
        p = "-" if math.isnan(v.p_value) else f"{v.p_value:.4f}"
        shown.add_row(
            str(path), v.class_name, f"{v.probability:.3f}", f"{v.ood_score:.4g}", p, "OOD" if v.is_ood else "",
            style="yellow" if v.is_ood else None,
        )  # fmt: skip
    console().print(shown)
    flagged = sum(v.is_ood for _, v in answers)
    limits = sorted({v.threshold for _, v in answers})
    limit = f"{limits[0]:.4g}" + (f" to {limits[-1]:.4g} by predicted class" if len(limits) > 1 else "")
    console().print(f"{flagged} of {len(answers)} flagged (ood_score > {limit}) by {identity}")


def summary(g: Any, folder: Path, exported: Path | None, why_not: str = "") -> dict[str, Any]:
    """What a new guard is, for programs; `why_not` is why it cannot be exported."""
    m = g.manifest
    return {
        "run": str(folder),
        "onnx": None if exported is None else str(exported),
        "not_exported": why_not or None,
        "guard": m.identity,
        "method": m.method,
        "backbone": m.backbone,
        "head": m.head,
        "score": m.score,
        "classes": list(m.class_names),
        **calibration(g),
        "metrics": m.metrics,
    }


def calibration(g: Any) -> dict[str, Any]:
    """How a guard is calibrated, for programs."""
    c, scaling = g.manifest.calibration, g.manifest.temperature
    return {
        "threshold": g.manifest.threshold,
        "alpha": c.alpha if c else None,
        "false_alarm_interval": [c.rate_low, c.rate_high] if c else None,
        "calibration_images": c.n if c else None,
        "class_thresholds": c.class_thresholds if c and c.class_conditional else None,
        "temperature": scaling,
    }


def print_summary(g: Any, folder: Path, exported: Path | None, why_not: str = "") -> None:
    """What a new guard is, for people, and what to do with it; `why_not` is why it cannot be exported."""
    m = g.manifest
    shown = table("", "", header=False)
    shown.add_row("guard", f"{m.identity}: {len(m.class_names)} classes, {m.backbone}, score {m.score_label}")
    for row in calibration_rows(m).items():
        shown.add_row(*row)
    for name, number in m.metrics.items():
        shown.add_row(name, f"{number:.0f}" if name.endswith("_images") else f"{number:.4f}")
    shown.add_row("run", str(folder))
    if exported is not None:
        shown.add_row("exported", str(exported))
    if why_not:
        shown.add_row("not exported", why_not)
    console().print(shown)
    if exported is not None or why_not:
        model = exported or folder
        console().print(f"\nnext:  guard predict {model} IMAGE\n       guard serve {model}")


def print_store(store: Any) -> None:
    """What an outlier store is, what its audit found, and what to do with it."""
    card, audit = store.card, store.card.audit
    shown = table("", "", header=False)
    options = ", ".join(f"{k} {v}" for k, v in card.options.items())
    shown.add_row("outliers", f"{card.count} by {card.synthesiser}" + (f" ({options})" if options else ""))
    shown.add_row("from", f"{card.data.images} images of {card.data.name}")
    if card.match:
        shown.add_row("matched in", ", ".join(card.match))
    shown.add_row("store", str(store.folder))
    if store.gallery:
        shown.add_row("gallery", str(store.gallery))
    console().print(shown)
    if audit is not None:
        print_rows(("", "audit"), audit.rows())
        for warning in audit.warnings:
            console().print(f"warning: {warning}", style="yellow")
    console().print(f"\nnext:  guard train DATA --method rejection --outliers {store.folder}")


def calibration_rows(m: Manifest) -> dict[str, str]:
    """What was calibrated, by name."""
    rows, c, scaling = {}, m.calibration, m.temperature
    if c and c.class_conditional:
        limits, kept = c.class_thresholds, c.class_intervals.count(None)
        rows["thresholds"] = (
            f"{limits.min():.4g} to {limits.max():.4g} by predicted class, for {c.alpha:.1%} false alarms each "
            f"(from {c.n} held-out images"
            + (f"; {kept} of {len(limits)} classes keep the pooled {c.threshold:.4g})" if kept else ")")
        )
    elif c:
        rows["threshold"] = (
            f"{c.threshold:.4g}, for {c.alpha:.1%} false alarms "
            f"(95 % interval {c.rate_low:.1%} to {c.rate_high:.1%}, from {c.n} held-out images)"
        )
    if scaling:
        rows["temperature"] = (
            f"{scaling.value:.4g}, calibration error (ECE) {scaling.ece_before:.2%} -> {scaling.ece_after:.2%} on "
            f"{scaling.measured_images} {scaling.measured_on} images"
        )
    return rows


def print_calibration(before: Any, after: Any, path: Path) -> None:
    """Two guards' calibrations, one above the other."""
    shown = table("", "", "", header=False)
    for title, g in (("before", before), ("after", after)):
        for name, words in (calibration_rows(g.manifest) or {"threshold": "none"}).items():
            shown.add_row(title, name, words)
            title = ""
    shown.add_row("wrote", "", f"{path} ({after.manifest.identity})")
    console().print(shown)


def print_rows(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Any table."""
    shown = table(*columns)
    for row in rows:
        shown.add_row(*row)
    console().print(shown)


def table(*columns: str, numeric: tuple[int, ...] = (), header: bool = True) -> Table:
    made = Table(box=None, pad_edge=False, show_header=header, header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in numeric else "left", overflow="fold")
    return made
