"""``guard serve`` and ``guard demo``: run things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MissingExtraError
from .arguments import Debug


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="guard.onnx, guard.engine or a run folder; default $GUARD_MODEL, then runs/latest/guard.onnx."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 for every network this machine is on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    workers: Annotated[int, typer.Option(min=1, help="Processes; one per core serves most.")] = 1,
    debug: Debug = False,
) -> None:
    """Serve a guard over HTTP, with a page at /ui."""
    try:
        from serving import runner
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed by guard serve)", "serve") from error
    runner.serve(model, host=host, port=port, workers=workers)


def demo(
    out: Annotated[Path, typer.Option(help="Where guard.onnx and report.html go.")] = Path("runs/demo"),
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the service up until interrupted.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train, export, verify, evaluate and serve a guard for handwritten digits, in about two minutes."""
    from ..demo import run

    run(out, keep_serving=keep_serving)


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "demo": demo}
