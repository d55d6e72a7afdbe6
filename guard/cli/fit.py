"""``guard fit``: a guard for a classifier that the user already has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..errors import ConfigError
from ..requests import FitRequest
from . import runs
from .arguments import class_names, numbers
from .classifiers import classifier
from .finish import finish
from .flags import (
    DATA,
    INPUT,
    OUTLIERS,
    RUN_FOLDER,
    SPLIT,
    Debug,
    Flag,
    Json,
    NoExport,
    call,
    from_request,
    settings_flag,
)


@from_request(
    FitRequest,
    data=DATA,
    model=Flag(help="A timm name, Hugging Face folder or hub id, .onnx file, run folder, or package.module:callable."),
    score_options=settings_flag("--score-set"),
    outliers=OUTLIERS,
    training=settings_flag("--training-set"),
    processor=Flag(help="Folder of a Hugging Face model's image processor; default the model's."),
    class_names=Flag(
        convert=class_names,
        metavar="NAMES",
        help="The model's classes in the order of its logits: a,b,c, or a text file with a name a line, or JSON or a "
        "JSON file with a list, {name: index} or {index: name}. Default its own, else the data's.",
    ),
    mean=Flag(convert=numbers),
    std=Flag(convert=numbers),
    calibration=SPLIT,
    test=SPLIT,
    out=RUN_FOLDER,
    **INPUT,
)
def fit(
    asked: FitRequest,
    checkpoint: Annotated[Path | None, typer.Option(help="The model's weights, safetensors.")] = None,
    formerly: Annotated[
        list[str] | None, typer.Option("--set", hidden=True, help="What --score-set was called before.")
    ] = None,
    no_export: NoExport = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Guard a classifier that you already have; its weights and answers stay as they are."""
    if formerly:
        raise ConfigError(f"guard fit takes options of the score as --score-set {formerly[0]}, not --set")
    model = classifier(asked.model, checkpoint, in_chans=asked.in_chans, image_size=asked.image_size)
    folder = runs.run_folder(asked.out, f"fit-{asked.score}" if asked.score else "fit")
    with runs.removed_if_unused(folder):
        g = call(api.fit, asked, model=model, out=folder)
    finish(g, folder, export=not no_export, json=json)
