"""``guard demo``: everything once, on handwritten digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..paths import path_given
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

    out = path_given(out, "--out")
    run.run(out, keep_serving=keep_serving, console=console())
    mark_latest(out)
