"""An `Evaluation` in words and as a table for the terminal."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .metrics import METRICS

if TYPE_CHECKING:
    from .result import Evaluation, Interval

TITLES = {
    "auroc": "AUROC",
    "fpr_at_95_id_tpr": "FPR at 95 % ID TPR",
    "fpr_at_95_ood_tpr": "FPR at 95 % OOD TPR",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
}
LOWER_IS_BETTER = {"fpr_at_95_id_tpr", "fpr_at_95_ood_tpr"}
_COLUMNS = ["AUROC ↑", "FPR@95\nID TPR ↓", "FPR@95\nOOD TPR ↓", "AUPR\nIn ↑", "AUPR\nOut ↑", "flagged ↑"]


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def percents(interval: Interval, digits: int = 1) -> str:
    return f"{100 * interval[0]:.{digits}f}–{100 * interval[1]:.{digits}f} %"


def bounds(interval: Interval) -> str:
    """Without the percent sign, for table cells; 100.0 is written 100 to keep columns narrow."""
    return "–".join(f"{100 * bound:.1f}" if bound < 0.9995 else "100" for bound in interval)


def headline(evaluation: Evaluation) -> str:
    """The false-alarm verdict in one sentence."""
    result, calibration = evaluation.id, evaluation.manifest.calibration
    said = f"flags {percent(result.false_alarm_rate)} of in-distribution test images"
    if calibration is None:
        return f"{said}; it is not calibrated, so nothing is flagged until g.calibrate(images) has set a threshold"
    target = f"target {100 * calibration.alpha:.4g} %" + (" of every class" if calibration.class_conditional else "")
    return f"{said} ({target}{'' if result.expected is None else f', expected {percents(result.expected)}'})"


def classes(evaluation: Evaluation) -> str:
    """The predicted classes with the fewest and the most false alarms; empty where there is nothing to compare."""
    if evaluation.manifest.calibration is None or len(found := evaluation.id.classes) < 2:
        return ""
    (low, least), *_, (high, most) = sorted(found.items(), key=lambda item: item[1].false_alarm_rate)
    return (
        f"by predicted class {percent(least.false_alarm_rate)} ({low}, {least.images} images) to "
        f"{percent(most.false_alarm_rate)} ({high}, {most.images} images)"
    )


def meaning(evaluation: Evaluation) -> str:
    """What the false-alarm verdict means, or an empty string where nothing is expected."""
    result = evaluation.id
    if result.expected is None:
        return ""
    if result.as_expected:
        return "as promised: these images behave like those the threshold was calibrated on"
    if result.false_alarm_rate > result.expected[1]:
        return (
            "MORE than promised: these images do not look like those the threshold was calibrated on; "
            "calibrate again on images of this kind"
        )
    return (
        "fewer than promised: these images are easier than those the threshold was calibrated on; "
        "calibrate again on images of this kind to catch more"
    )


def accuracy(evaluation: Evaluation) -> str:
    result = evaluation.id
    accepted = "of which it accepts none"
    if not math.isnan(result.accuracy_accepted):
        accepted = f"{percent(result.accuracy_accepted, 2)} on those it accepts"
    return (
        f"accuracy {percent(result.accuracy, 2)} ({percents(result.accuracy_interval, 2)}) on {result.images} images, "
        f"{accepted}; calibration error of the probabilities (ECE) "
        f"{percent(result.calibration_error)}"
    )


def table(evaluation: Evaluation) -> RenderableType:
    """For ``rich.print``."""
    m, result = evaluation.manifest, evaluation.id
    lines = Text()
    lines.append(f"{m.identity}", style="bold")
    lines.append(f"  {m.method}, {m.backbone}, score {m.score_label}, threshold {m.threshold:.4g}\n")
    lines.append(f"{result.name}: {accuracy(evaluation)}\n")
    lines.append(headline(evaluation))
    if by_class := classes(evaluation):
        lines.append(f"\n{by_class}")
    if result.expected is not None:
        lines.append("\n")
        lines.append(meaning(evaluation), style="green" if result.as_expected else "bold yellow")
    for note in evaluation.notes:
        lines.append(f"\nnote: {note}", style="dim")
    return Group(lines, _detection(evaluation)) if evaluation.ood else lines


def text(evaluation: Evaluation, width: int = 100) -> str:
    """The table without colour codes."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(table(evaluation))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines())


def _detection(evaluation: Evaluation) -> Table:
    """Two lines per set: name and numbers, number of images and intervals; fits 80 columns."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=_caption(evaluation),
        caption_justify="left",
    )
    shown.add_column("OOD set\n(percent)", overflow="fold", min_width=12)
    for title in _COLUMNS:
        shown.add_column(title, justify="right", no_wrap=True)
    for near in (False, True):
        for r in evaluation.ood:
            if r.near == near:
                cells = [_cell(getattr(r.metrics, name), r.intervals.get(name)) for name in METRICS]
                flagged = _cell(r.flagged, r.flagged_interval if evaluation.bootstrap else None)
                shown.add_row(Text(r.name).append(f"\n{r.images} images", style="dim"), *cells, flagged)
        if mean := evaluation.mean(near):
            means = [_cell(mean[key]) for key in (*METRICS, "flagged")]
            shown.add_row("mean of near" if near else "mean of far", *means, style="bold", end_section=True)
    return shown


def _cell(value: float, interval: Interval | None = None) -> Text:
    cell = Text(f"{100 * value:.1f}")
    if interval is not None:
        cell.append(f"\n{bounds(interval)}", style="dim")
    return cell


def _caption(evaluation: Evaluation) -> str:
    caption = f"AUPR with {evaluation.id.images} ID images"
    return f"{caption}; below each number its 95 % interval" if evaluation.bootstrap else caption
