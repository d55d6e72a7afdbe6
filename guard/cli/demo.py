"""``guard demo``: everything once, on handwritten digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .flags import Debug
from .output import console
from .runs import mark_latest


def demo(
    out: Annotated[Path, typer.Option(help="Where guard.onnx and report.html go.")] = Path("runs/demo"),
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the service up until interrupted.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train, export, verify, evaluate and serve a guard for handwritten digits, in one to three minutes."""
    from ..demo import run

    mark_latest(run.run(out, keep_serving=keep_serving, console=console()).model.parent)
