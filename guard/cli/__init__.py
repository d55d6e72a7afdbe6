"""The ``guard`` command: parsing and printing; each command is one call into the public functions.

    guard train | fit        make a guard
    guard synth              make outlier images
    guard export | verify    write it as one graph, prove it
    guard calibrate          choose its thresholds anew
    guard predict | eval     ask it
    guard scan               ask it about a whole data set
    guard drift              has its traffic changed?
    guard bench              what does it cost at run time?
    guard benchmark          compare methods, heads and scores
    guard methods | heads | scores | synthesisers    what there is
    guard serve | demo       run it

A file per command. What they share: flags.py (the fields of a request as flags), arguments.py (text -> values),
output.py (tables and JSON), cards.py (options of what is registered), runs.py (run folders), classifiers.py (what
``--model`` names), finish.py (how train and fit end).

Tables and messages are for people; ``--json`` prints one JSON value on standard output and nothing else. A
`GuardError` becomes one line on standard error and exit code 2 (``--debug`` shows its traceback), as do wrong
arguments; an interrupt exits with 130. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ..errors import GuardError
from . import (
    bench,
    benchmark,
    calibrate,
    demo,
    drift,
    evaluate,
    export,
    fit,
    heads,
    methods,
    predict,
    scan,
    scores,
    serve,
    synth,
    synthesisers,
    train,
    verify,
)
from .flags import DEBUG_FLAG, Command, Debug

COMMANDS: dict[str, Command] = {
    "train": train.train,
    "fit": fit.fit,
    "export": export.export,
    "verify": verify.verify,
    "synth": synth.synth,
    "synthesisers": synthesisers.synthesisers,
    "calibrate": calibrate.calibrate,
    "predict": predict.predict,
    "eval": evaluate.evaluate,
    "scan": scan.scan,
    "drift": drift.drift,
    "bench": bench.bench,
    "benchmark": benchmark.benchmark,
    "methods": methods.methods,
    "heads": heads.heads,
    "scores": scores.scores,
    "serve": serve.serve,
    "demo": demo.demo,
}

app = typer.Typer(
    name="guard",
    help="Give an image classifier a guard: the label, and whether the input looks like anything it was trained on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _show_version(value: bool) -> None:
    if value:
        from .. import __version__

        typer.echo(f"ood-guard {__version__}")
        raise typer.Exit()


@app.callback()
def _guard(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    _log_to_stderr()


def _log_to_stderr() -> None:
    """What the library logs (an epoch, a default that was chosen) goes to people on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("ood_guard")
    log.handlers = [handler]
    log.setLevel(logging.INFO)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit the process with its code.

    Args:
        arguments: what follows ``guard`` on the command line; default that of this process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if hasattr(sys.stdout, "reconfigure"):  # a file's name may be what the terminal cannot show, or no text at all
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(arguments, prog_name="guard")
    except KeyboardInterrupt:
        sys.exit(130)
    except GuardError as error:
        if DEBUG_FLAG in arguments:
            traceback.print_exc()
        else:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print("error: standard output cannot be written to (no space left on device)", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail on what is left when it ends
        sys.exit(2)
