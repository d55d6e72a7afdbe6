"""``guard export``: a guard as one graph."""

from __future__ import annotations

from pathlib import Path

import typer

from .. import api
from ..export_requests import ExportRequest
from .flags import Debug, Flag, call, from_request


@from_request(
    ExportRequest,
    g=Flag(
        Path,
        positional=True,
        metavar="RUN",
        help="Run folder; below fp32, for an engine and for triton an .onnx file, too.",
    ),
    path=Flag(Path, positional=True, metavar="OUT", help="Ends in .onnx or .engine; for triton the model's folder."),
    data=Flag(),
    ood=Flag(),
)
def export(asked: ExportRequest, debug: Debug = False) -> None:
    """Write a guard as one graph, compared with its source before it is kept."""
    written = call(api.export, asked)
    size = sum(file.stat().st_size for file in (written.rglob("*") if written.is_dir() else (written,)))
    typer.echo(f"wrote {written} ({size / 1e6:.1f} MB)")
