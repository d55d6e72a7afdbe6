"""A process that decodes and scores what it is sent; for `processes` alone.

Standard input: a `Job`, then (items, labels) again and again. Standard output: a `Scored` for each, or the `GuardError`
that ended it. It ends when its input does, so it never outlives the scan.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from ..artefact.load import load
from ..data.decoding import decode_items
from ..detector import Guard
from ..errors import ArtefactDamagedError, GuardError
from ..manifest import Manifest
from .processes import Job
from .scoring import verdicts_of


def main() -> None:
    """Answer until nothing more is asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    asked, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a library prints must not get into the answers
    try:
        _answer(asked, answers)
    except GuardError as error:
        answers.send(GuardError(str(error)))
    except (EOFError, BrokenPipeError):  # the parent is done, or gone
        return


def _answer(asked: Connection, answers: Connection) -> None:
    job: Job = asked.recv()
    g = opened_job(job)
    while True:
        items, given = asked.recv()
        decoded = decode_items(items, g.manifest.preprocess, job.max_pixels)
        answers.send(verdicts_of(g, decoded, given))


def opened_job(job: Job) -> Guard:
    """The guard of a job, on one thread.

    Raises:
        ArtefactDamagedError: its file is another one by now.
    """
    manifest = Manifest.model_validate_json(job.manifest)
    runtime = job.runtime if Path(job.path).suffix == ".onnx" else "auto"  # others have one, which load does not name
    g = load(job.path, device="cpu", runtime=runtime, threads=1)
    if g.manifest.weights_sha256 != manifest.weights_sha256:
        raise ArtefactDamagedError(f"{job.path} was replaced while it was in use; start the scan again")
    return Guard(manifest, g.runtime, path=job.path)
