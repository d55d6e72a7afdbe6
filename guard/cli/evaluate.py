"""``guard eval``: accuracy, false alarms and OOD detection of a guard."""

from __future__ import annotations

import typer

from .. import api
from ..requests import EvaluateRequest
from . import output
from .arguments import named_sets
from .flags import GUARD, Debug, Flag, Json, Runtime, call, from_request


@from_request(
    EvaluateRequest,
    g=GUARD,
    id=Flag(),
    ood=Flag(
        list[str],
        named_sets,
        metavar="NAME=PATH",
        help="OOD images. Repeatable. A plain path is named after its file or folder; "
        "a folder of Parquet files is one set per file.",
    ),
    near=Flag(list[str], metavar="NAME", help="Which OOD sets are near-OOD. Repeatable."),
)
def evaluate(asked: EvaluateRequest, runtime: Runtime = "auto", json: Json = False, debug: Debug = False) -> None:
    """Measure accuracy, false-alarm rate and OOD detection."""
    g = asked.g if runtime == "auto" else api.load(asked.g, runtime=runtime)
    evaluation = call(api.evaluate, asked, g=g)
    if json:
        output.print_json(evaluation)
        return
    typer.echo(str(evaluation))
    if asked.out is not None:
        typer.echo(f"\nreport: {asked.out}")
