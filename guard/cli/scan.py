"""``guard scan``: the verdicts on a whole data set, and what is strange in it."""

from __future__ import annotations

from pathlib import Path

import typer

from .. import api
from ..requests import ScanRequest
from . import output
from .flags import DATA, GUARD, Debug, Flag, Json, call, from_request


@from_request(ScanRequest, g=GUARD, data=DATA, out=Flag(Path, names=("--out", "-o")))
def scan(asked: ScanRequest, json: Json = False, debug: Debug = False) -> None:
    """Score a whole data set into Parquet, with a report. Killed? The same command goes on."""
    found = call(api.scan, asked)
    if json:
        output.print_json(found)
        return
    typer.echo(f"{found}\n{found.shards} Parquet files in {asked.out}; report: {asked.out / 'report.html'}")
