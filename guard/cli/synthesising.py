"""``guard synth``, ``synthesisers``: outlier stores, and what can make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import api
from .._siblings import needs
from . import output
from .arguments import Data, Debug, Json, defaults, settings, value
from .asking import Pattern, show
from .making import Device, Side, Split, Workers

_SYNTH = defaults(api.synth)


def synth(
    data: Data,
    method: Annotated[str, typer.Option(help="See: guard synthesisers.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The store's folder. One that was begun is gone on with.")],
    count: Annotated[
        int | None,
        typer.Option(help="Outliers in all; default one per training image, at most 50,000.", show_default=False),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A guard to look at the outliers with: run folder or .onnx.")
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="Give each outlier this number of an in-distribution image: spectrum, colour, saturation, contrast, "
            "brightness, coding. Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of splits and outliers.")] = _SYNTH["seed"],
    device: Device = _SYNTH["device"],
    batch_size: Annotated[int, typer.Option(help="In-distribution images per draw.")] = _SYNTH["batch_size"],
    image_size: Side = None,
    in_chans: Annotated[int, typer.Option(help="3, or 1 for grey.")] = _SYNTH["in_chans"],
    calibration: Split = None,
    test: Split = None,
    workers: Workers = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the synthesiser; see: guard synthesisers NAME. Repeatable.",
        ),
    ] = None,
    no_gallery: Annotated[bool, typer.Option("--no-gallery", help="Do not write gallery.html.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make outlier images from in-distribution ones: a folder that --outliers of guard train takes."""
    store = api.synth(
        data,
        method=method,
        out=out,
        count=count,
        classifier=classifier,
        match=tuple(match or ()),
        seed=seed,
        device=device,
        batch_size=batch_size,
        image_size=image_size,
        in_chans=in_chans,
        calibration=value(calibration) if calibration else None,
        test=value(test) if test else None,
        workers=workers,
        gallery=not no_gallery,
        **settings(options or [], api.synth),
    )
    if json:
        output.print_json({"store": str(store.folder), "gallery": store.gallery, **store.card.model_dump(mode="json")})
    else:
        output.print_store(store)


def synthesisers(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List what makes outlier images, or show one synthesiser's options."""
    registry: Any = needs("train", "train.outliers.base")
    show("synthesiser", pattern, registry.list_synthesisers(), registry.get_synthesiser, json)


COMMANDS: dict[str, Callable[..., None]] = {"synth": synth, "synthesisers": synthesisers}
