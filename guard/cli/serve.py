"""``guard serve``: a guard over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .flags import Debug


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="guard.onnx, guard.engine or a run folder; default $GUARD_MODEL, then runs/latest/guard.onnx."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="IP address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default $GUARD_WORKERS, then 1.", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default $GUARD_DEVICE, then auto.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve a guard over HTTP, with a page at /ui."""
    from .._siblings import sibling  # a user's own serving.py may hold the name

    runner = sibling("serving.runner")
    raise typer.Exit(runner.serve(model, host=host, port=port, workers=workers, device=device))
