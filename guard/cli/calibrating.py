"""``guard calibrate``: new thresholds and a new temperature for a guard that is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .. import api
from . import output
from .arguments import Data, Debug, Json, defaults
from .making import Alpha, ClassConditional, Device, TemperatureScaling

_CALIBRATE = defaults(api.calibrate)


def calibrate(
    model: Annotated[Path, typer.Argument(help="guard.onnx, guard.engine or a run folder.")],
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; default over MODEL.", show_default=False)
    ] = None,
    alpha: Alpha = _CALIBRATE["alpha"],
    class_conditional: ClassConditional = False,
    min_class_images: Annotated[
        int | None,
        typer.Option(help="A class with fewer images keeps the pooled threshold; default 50.", show_default=False),
    ] = None,
    temperature_scaling: TemperatureScaling = False,
    batch_size: Annotated[int, typer.Option(help="Images per run.")] = _CALIBRATE["batch_size"],
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose a guard's thresholds anew on in-distribution images, without retraining."""
    before = api.load(model, device=device)
    path = out or model
    after = api.calibrate(
        before,
        data,
        out=path,
        alpha=alpha,
        class_conditional=class_conditional,
        min_class_images=min_class_images,
        temperature_scaling=temperature_scaling,
        batch_size=batch_size,
    )
    if json:
        output.print_json({"path": path, "before": output.calibration(before), "after": output.calibration(after)})
        return
    output.print_calibration(before, after, path)
    if path.is_dir() and (path / "guard.onnx").exists():
        typer.echo(f"note: {path / 'guard.onnx'} keeps its own calibration; write it anew with guard export")


COMMANDS: dict[str, Callable[..., None]] = {"calibrate": calibrate}
