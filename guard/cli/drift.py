"""``guard drift``: has the traffic changed since the guard was calibrated?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..artefact.places import report_file
from ..paths import path_given
from . import output
from .flags import Debug, Json

if TYPE_CHECKING:
    from ..monitoring import DriftReport


def drift(
    verdicts: Annotated[
        Path,
        typer.Argument(
            help="Parquet or CSV with a row per image (ood_score or p_value, is_ood, time ...); or a scan's folder."
        ),
    ],
    guard: Annotated[
        Path | None, typer.Option(help="The guard that gave the verdicts (ood_score needs it).", show_default=False)
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Without --guard: how many gave the p-values.", show_default=False)
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance of a false alarm, ever.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the order among equal scores, and of a scan's images.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a page (.html) and its numbers (.json).")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test whether verdicts that were kept still look like the calibration images."""
    from ..artefact.load import manifest_of
    from ..monitoring import table
    from ..monitoring.page import write_page

    if out is not None:
        out = path_given(out, "--out")
        report_file(out)
    manifest = None if guard is None else manifest_of(guard)
    read = table.read_table(verdicts, seed=seed)
    report = table.drift(read, manifest=manifest, n=calibration_images, alpha=alpha, seed=seed)
    if out is not None:
        write_page(report, out)
    if json:
        output.print_json(report)
        return
    _print(report, read.is_ood is not None)
    if out is not None:
        typer.echo(f"report: {out}")


def _print(report: DriftReport, with_flags: bool) -> None:
    from ..monitoring.page import evidence, headline

    now, most = evidence(report.log10_capital), evidence(report.log10_largest)
    typer.echo(f"{headline(report)}\nevidence {now}, at most {most}; the alarm is raised at {1 / report.alpha:.4g}")
    if with_flags and report.flag_rate is not None:
        target = f"; target {100 * report.target_flag_rate:.3g} %" if report.target_flag_rate is not None else ""
        low, high = 100 * report.flag_rate_low, 100 * report.flag_rate_high
        typer.echo(f"flagged {100 * report.flag_rate:.2f} % (95 % interval {low:.2f} to {high:.2f} %{target})")
    if not with_flags or not report.classes:
        return
    shown = output.table("predicted class", "images", "flagged", "rate", "95 % interval", numeric=(1, 2, 3, 4))
    for c in sorted(report.classes, key=lambda c: -c.images):
        interval = f"{100 * c.flag_rate_low:.1f} to {100 * c.flag_rate_high:.1f} %"
        shown.add_row(c.class_name, str(c.images), str(c.flagged), f"{100 * (c.flag_rate or 0):.1f} %", interval)
    output.console().print(shown)
