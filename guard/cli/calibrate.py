"""``guard calibrate``: new thresholds and a new temperature for a guard that was made before."""

from __future__ import annotations

from pathlib import Path

import typer

from .. import api
from ..requests import CalibrateRequest
from . import output
from .flags import DATA, GUARD, Debug, Device, Flag, Json, Runtime, call, from_request


@from_request(
    CalibrateRequest,
    g=GUARD,
    data=DATA,
    class_conditional=Flag(bool, names=("--class-conditional/--no-class-conditional",)),
    out=Flag(Path, names=("--out", "-o"), help="Where to write; default over MODEL."),
)
def calibrate(
    asked: CalibrateRequest,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose a guard's thresholds anew on in-distribution images, without retraining."""
    before = api.load(asked.g, device=device, runtime=runtime)
    path: Path = asked.out or asked.g
    after = call(api.calibrate, asked, g=before, out=path)
    if json:
        output.print_json({"path": path, "before": output.calibration(before), "after": output.calibration(after)})
        return
    output.print_calibration(before, after, path)
    if path.is_dir() and (path / "guard.onnx").exists():
        typer.echo(f"note: {path / 'guard.onnx'} keeps its own calibration; write it anew with guard export")
