"""``guard bench``: what an exported guard costs at run time."""

from __future__ import annotations

from pathlib import Path

import typer

from .. import api
from ..errors import ConfigError
from ..export_requests import BenchRequest
from . import output
from .flags import Debug, Flag, Json, from_request


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--batch-sizes must be numbers with commas, like 1,8,64, got {text!r}") from None


@from_request(
    BenchRequest,
    artefacts=Flag(list[Path], tuple, positional=True, metavar="FILE...", help="Exported guards of one classifier."),
    batch_sizes=Flag(convert=_numbers, help="Images per run, with commas; default 1,8,64."),
    runtime=Flag(list[str], tuple, help="As in guard.load; default onnxruntime. Repeatable."),
    out=Flag(Path, names=("--out", "-o")),
)
def bench(asked: BenchRequest, json: Json = False, debug: Debug = False) -> None:
    """Time exported guards beside the bare classifier: latency, images per second, memory."""
    values = dict(asked)
    found = api.bench(*values.pop("artefacts"), **values)
    if json:
        output.print_json(found)
        return
    typer.echo(f"{found}\nratios are of time, to {found.compared_with} in the same round")
    if asked.out is not None:
        typer.echo(f"report: {asked.out}")
