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
    host: Annotated[
        str | None,
        typer.Option(
            help="IP address to listen on; 0.0.0.0 for every network; default $GUARD_HOST, then 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default $GUARD_WORKERS, then 1.", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default $GUARD_DEVICE, then auto.", show_default=False)
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="text or json; default $GUARD_LOG, then text.", show_default=False)
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="A log line per request.")] = False,
    keep_flagged: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep flagged images in; default $GUARD_KEEP_FLAGGED, then none.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve a guard over HTTP, with a page at /ui.

    Other settings are environment variables (docs/serving.md); GUARD_TOKEN is one, for other users see command lines.
    """
    from .._siblings import sibling  # a user's own serving.py may hold the name

    runner = sibling("serving.runner")
    settings = {"workers": workers, "device": device, "log": log, "keep_flagged": keep_flagged}
    raise typer.Exit(runner.serve(model, host=host, port=port, access_log=access_log or None, **settings))
