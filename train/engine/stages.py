"""The stages of a method, one after the other: what is resumed, what is kept, what is handed over at the end."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guard.graph.module import GuardModule

from ..augmentations.given import as_tensor
from ..outliers.base import PrepareContext
from .checkpoint import Progress, load_checkpoint, read_progress, save_checkpoint
from .distributed import processes
from .divided import same_state
from .journal import Journal, log_epoch
from .mixed_labels import check_mixed_labels
from .stage_run import StageRun

if TYPE_CHECKING:
    from guard.data import ImageData

    from ..methods.base import Stage
    from ..runs.request import TrainConfig
    from .loader import Feed


def train_stages(
    module: GuardModule,
    feed: Feed,
    stages: list[Stage],
    config: TrainConfig,
    *,
    device: torch.device,
    out: Path | None,
    resume: bool,
    pictures: ImageData | None = None,
    validation: ImageData | None = None,
) -> dict[str, float]:
    """Run all stages on `module` in place; returns the last epoch's numbers.

    With `ema` the averaged weights are in `module` at the end of each stage. Outliers are kept in ``out/outliers``.
    Several processes give the same `out`, and the first of them writes to it.
    `pictures` are the user's own for PixMix; `validation` chooses the epoch of stages that learn from labels alone.
    """
    mixed_in = None if pictures is None else as_tensor(pictures)
    start = (read_progress(out, config) if out is not None and resume else None) or Progress()
    resumed = out if start.stage or start.epoch else None
    journal = Journal(out if processes().is_first else None, (start.stage, start.epoch) if resume else None)
    numbers: dict[str, float] = {}
    with _folder_for_outliers(out) as folder:
        context = PrepareContext(module, feed.data, folder, config.seed, device)
        _check(stages, context, config)
        for index in range(start.stage, len(stages)):
            stage = stages[index]
            run = _begun(context, feed, stages, index, config, resumed, start.epoch, mixed_in, validation)
            for epoch in range(start.epoch, stage.epochs):
                numbers = run.epoch(epoch)
                log_epoch(stage.name, epoch, stage.epochs, numbers)
                journal.write({"stage": stage.name, "stage_index": index, "epoch": epoch + 1, **numbers})
                if epoch + 1 == stage.epochs:
                    run.finish()
                _keep(run, out, config, _after(epoch, index, stages), learned(stages[:index]))
            start, resumed = Progress(index + 1, 0), None
    _hand_over(stages, module)
    return numbers


def _check(stages: list[Stage], context: PrepareContext, config: TrainConfig) -> None:
    """Refuse what no stage may begin with."""
    head = getattr(context.module.classifier, "head", None)
    for stage in stages:
        check_parts(stage, context)
        check_mixed_labels(config.augment, config.method, stage, head)


def check_parts(stage: Stage, context: PrepareContext) -> None:
    """Have every part of a stage refuse what it cannot work with (`Learner.check`)."""
    for part in (stage.synthesiser, *stage.regularisers):
        if part is not None:
            part.check(context)


def _keep(
    run: StageRun, out: Path | None, config: TrainConfig, position: Progress, before: dict[str, nn.Module]
) -> None:
    """Write the checkpoint of an epoch, once; no process goes on to what would be lost."""
    us = processes()
    same_state(run.modules())
    if out is not None and us.is_first:
        save_checkpoint(out, config, position, before | run.modules(), run.optimizers())
    us.wait()


def _after(epoch: int, index: int, stages: list[Stage]) -> Progress:
    """Where a run is after that epoch of that stage."""
    ended = epoch + 1 == stages[index].epochs and index + 1 < len(stages)
    return Progress(index + 1, 0) if ended else Progress(index, epoch + 1)


@contextlib.contextmanager
def _folder_for_outliers(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out / "outliers"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _begun(
    context: PrepareContext,
    feed: Feed,
    stages: list[Stage],
    index: int,
    config: TrainConfig,
    resumed: Path | None,
    done: int,
    pictures: Tensor | None,
    validation: ImageData | None,
) -> StageRun:
    """The `index`-th stage, prepared, as the checkpoint in `resumed` has it after `done` epochs."""
    module = context.module
    if resumed is not None:  # before the stage is set up: an average starts from these weights
        load_checkpoint(resumed, {"classifier": module.classifier, **learned(stages[:index])}, {})
    run = StageRun(module, stages[index], index, feed, config, context.device, pictures, validation)
    run.prepare(replace(context, resumed=resumed is not None and done > 0))
    same_state(run.modules())
    if resumed is not None and done:  # after `prepare`, which may build what has a state here
        load_checkpoint(resumed, run.modules(), run.optimizers())
    return run


def learned(stages: list[Stage]) -> dict[str, nn.Module]:
    """What finished stages learned beside the classifier, under its checkpoint names: it is handed over at the end."""
    return {
        f"regulariser{i}.{j}": regulariser
        for i, stage in enumerate(stages)
        for j, regulariser in enumerate(stage.regularisers)
    }


def _hand_over(stages: list[Stage], module: GuardModule) -> None:
    """What was learned into the scores that carry it; another score where it turns one round."""
    for stage in stages:
        for regulariser in stage.regularisers:
            for score in module.score.parts():
                regulariser.hand_over(score)
            module.score = regulariser.takes_over(module.score)
