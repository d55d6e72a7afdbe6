"""``guard bench``: what an exported guard costs at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..errors import ConfigError
from . import output
from .flags import Debug, Json


def bench(
    artefacts: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported guards of one classifier.")],
    batch_sizes: Annotated[str, typer.Option(help="Images per run, with commas.")] = "1,8,64",
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="What runs .onnx files: onnxruntime, openvino; may be repeated.", show_default="onnxruntime"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Intra-op threads; default the runtime's own choice.", show_default=False)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds in which all take turns.")] = 15,
    memory: Annotated[bool, typer.Option(help="Measure memory too, each in a process of its own.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a page (.html) and its numbers (.json).")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time exported guards beside the bare classifier: latency, images per second, memory."""
    found = api.bench(
        *artefacts,
        batch_sizes=_numbers(batch_sizes),
        runtime=runtime or ("auto",),
        device=device,
        threads=threads,
        rounds=rounds,
        memory=memory,
        out=out,
    )
    if json:
        output.print_json(found)
        return
    typer.echo(f"{found}\nratios are of time, to {found.compared_with} in the same round")
    if out is not None:
        typer.echo(f"report: {out.with_suffix('.html')}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--batch-sizes must be numbers with commas, like 1,8,64, got {text!r}") from None
