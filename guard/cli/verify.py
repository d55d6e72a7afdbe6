"""``guard verify``: does an exported guard decide like its source?"""

from __future__ import annotations

from pathlib import Path

import typer

from .. import api
from ..export_requests import VerifyRequest
from . import output
from .flags import Debug, Flag, Json, call, from_request


@from_request(
    VerifyRequest,
    path=Flag(str, positional=True, metavar="FILE", help="The exported guard, or the address of a service."),
    against=Flag(Path, help="Its source: a run folder or another export."),
    data=Flag(),
)
def verify(asked: VerifyRequest, json: Json = False, debug: Debug = False) -> None:
    """Compare an exported guard with its source: scores, labels and flags."""
    report = call(api.verify, asked)
    if json:
        output.print_json(report)
    else:
        typer.echo(str(report))
