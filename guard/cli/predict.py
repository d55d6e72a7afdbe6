"""``guard predict``: label images and flag those that are out-of-distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import api
from ..deep_images import watched
from ..detector import Guard
from ..errors import GuardError, ImageError, MissingDataError
from ..verdict import Verdict
from . import output
from .arguments import image_paths
from .flags import Debug, Device, Json, Model, Runtime

_BATCH = 64


def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Image files, and folders of them.")],
    threshold: Annotated[
        float | None, typer.Option(help="Flag above this ood_score; default the calibrated one.", show_default=False)
    ] = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label images and flag those that are out-of-distribution.

    A file that is not an image is named on standard error, the others are answered, and the exit code is 2.
    """
    g = api.load(model, device=device, runtime=runtime)
    paths = image_paths(images)
    answers: list[tuple[Path, Verdict]] = []
    unreadable: list[GuardError] = []
    for start in range(0, len(paths), _BATCH):
        readable, pixels = [], []
        with watched() as deep:
            for path in paths[start : start + _BATCH]:
                try:
                    pixels.append(_pixels(path, g))
                    readable.append(path)
                except (ImageError, MissingDataError) as error:
                    unreadable.append(error)
        deep.warn("predict", len(pixels), once=True)
        batches = [np.stack(pixels)] if pixels else []
        answers += zip(readable, g.predict_batches(batches, threshold=threshold), strict=True)
    if json:
        output.print_json([{"image": str(path), **verdict.to_dict()} for path, verdict in answers])
    elif answers:
        output.print_verdicts(answers, g.manifest.identity)
    for problem in unreadable[:-1]:
        typer.echo(f"error: {problem}", err=True)
    if unreadable:
        raise unreadable[-1]


def _pixels(path: Path, g: Guard) -> Any:
    from ..preprocess import to_input

    return to_input(path, g.manifest.preprocess)
