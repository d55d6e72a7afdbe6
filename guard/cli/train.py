"""``guard train``: a classifier with a guard, from images."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from ..errors import ConfigError
from ..requests import TrainRequest
from . import runs
from .arguments import named_sets, value
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

Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Published weights to start from, in place of --pretrained: a safetensors file, a timm checkpoint folder "
        "or its hub id.",
    ),
]


@from_request(
    TrainRequest,
    data=DATA,
    head_options=settings_flag("--head-set"),
    score_options=settings_flag("--score-set"),
    options=settings_flag("--set"),
    outliers=OUTLIERS,
    ood_val=Flag(
        list[str],
        named_sets,
        metavar="NAME=PATH",
        help="OOD set to report AUROC on, never trained on. Repeatable.",
    ),
    mixing_set=Flag(),
    pretrained=Flag(
        bool,
        names=("--pretrained",),
        help="Start from timm's published weights; others: --weights.",
        beside=", or --weights PATH",
    ),
    validation=Flag(convert=value),
    calibration=SPLIT,
    test=SPLIT,
    out=RUN_FOLDER,
    **INPUT,
)
def train(
    asked: TrainRequest,
    weights: Weights = None,
    no_export: NoExport = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier with a guard and write it to a run folder, with guard.onnx in it."""
    if asked.resume and asked.out is None:
        raise ConfigError("--resume needs --out, the run folder to continue in")
    if weights is not None:
        asked = asked.model_copy(update={"pretrained": weights})
    folder = runs.run_folder(asked.out, asked.method)
    with runs.removed_if_unused(folder):
        g = call(api.train, asked, out=folder)
    finish(g, folder, export=not no_export, json=json)
