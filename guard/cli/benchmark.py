"""``guard benchmark``: methods, heads, scores and seeds on the same images, from one YAML file."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from ..benchmark_file import BenchmarkFile
from ..record import nested
from ..requests import BenchmarkRequest
from . import output
from .arguments import settings
from .flags import Debug, Flag, Json, call, from_request


def key_lines() -> list[str]:
    """The keys of the file with their meanings; those of nested records under their paths."""
    lines, parts = [], nested(BenchmarkFile)
    for name, field in BenchmarkFile.model_fields.items():
        lines.append(f"{name}: {field.description}")
        if name in parts:
            lines += [f"{name}.{n}: {f.description}" for n, f in parts[name].model_fields.items()]
    return lines


Plan = Annotated[
    bool,
    typer.Option("--plan", help="Print what it would make, train and measure, with GPU hours and disk; do nothing."),
]


def _benchmark(asked: BenchmarkRequest, plan: Plan = False, json: Json = False, debug: Debug = False) -> None:
    if plan:
        outlook = call(api.plan_benchmark, asked)
        if json:
            output.print_json(outlook.as_json())
        else:
            typer.echo(str(outlook))
        return
    results = call(api.benchmark, asked)
    if json:
        output.print_json({"out": str(results.folder), "rows": results.rows})
        return
    typer.echo(str(results))
    typer.echo(f"\nreport: {results.folder / 'report.html'}")


_benchmark.__name__ = "benchmark"
_benchmark.__doc__ = (
    "Train what a YAML file names, fit every score on every network, and report which detects best.\n\n"
    "Started again, it resumes; started twice, the two divide the runs.\n\n"
    "The file's keys:\n\n" + "\n\n".join(key_lines())
)

benchmark = from_request(
    BenchmarkRequest,
    file=Flag(positional=True, metavar="FILE", help="The YAML file that says what is compared; its keys are above."),
    settings=Flag(
        list[str],
        settings,
        names=("--set",),
        metavar="KEY=VALUE",
        help="In place of what the file says: epochs=1, data.train=photos/, methods.phase_mix.tune_epochs=2.",
    ),
)(_benchmark)
