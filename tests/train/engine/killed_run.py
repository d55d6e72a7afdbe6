"""A training that gets SIGKILL within an epoch, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which the first optimiser would import

import guard
from train.engine.stage_run import StageRun

HERE = "tests.train.engine.killed_run"


def train_until_killed(
    images: np.ndarray, labels: np.ndarray, where: tuple[int, int, int], out: Path, options: dict[str, Any]
) -> None:
    """Train; `where` is (stage, epochs done, steps into the next)."""
    torch.set_num_threads(1)
    stage, epoch, after = where
    step, journal, steps = StageRun.step, out / "metrics.jsonl", 0

    def until_killed(self: StageRun, *arguments: Any) -> Any:
        nonlocal steps
        losses = step(self, *arguments)
        done = len(journal.read_text().splitlines()) if journal.exists() else 0
        if self.index == stage and done == epoch:
            steps += 1
            if steps == after:
                os.kill(os.getpid(), signal.SIGKILL)
        return losses

    StageRun.step = until_killed  # type: ignore[method-assign]
    guard.train((images, labels), out=out, **options)


def killed(
    images: np.ndarray, labels: np.ndarray, where: tuple[int, int, int], out: Path, options: dict[str, Any]
) -> None:
    """Raises: AssertionError: it ended in another way."""
    context = multiprocessing.get_context("forkserver")  # which imports torch once for all of them
    context.set_forkserver_preload([HERE])
    process = context.Process(target=train_until_killed, args=(images, labels, where, out, options))
    process.start()
    process.join(300)
    ended = process.exitcode
    process.kill()  # one that hangs
    assert ended == -signal.SIGKILL
