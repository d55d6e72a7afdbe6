"""The epoch of every training: seeded, shown, logged, and resumable at its end.

All random numbers of an epoch come from generators seeded with (seed, stage, epoch), so a checkpoint needs no state of
a generator, and a run that was killed ends where an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from guard.errors import DivergedError

from .checkpoint import Progress, load_checkpoint, read_progress, save_checkpoint
from .distributed import alone, processes
from .journal import Journal, log_epoch
from .progress import progress_bar
from .seeds import epoch_seed
from .threads import pace

if TYPE_CHECKING:
    from guard.record import Record

    from ..outliers.base import IDBatch
    from .loader import Source

Step = Callable[["IDBatch", torch.Generator, int], dict[str, Tensor]]


def epochs_showing(images: int, of: int) -> int:
    """Passes over `of` images that show at least `images` in all; at least 1."""
    return max(1, -(-images // of))


@dataclass(frozen=True)
class Epochs:
    """Passes over items, each in an order of its own; what fills no batch, other items every time, is left out.

    Attributes:
        title: what is trained, for people.
        source: the items.
        count: of epochs.
        most: items in a batch, where there are as many.
        seed, stage: with the epoch's number, of all that is random.
        rows: which items are trained on; None: all.
    """

    title: str
    source: Source
    count: int
    most: int
    seed: int
    stage: int
    device: torch.device
    rows: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Items in a batch."""
        return min(self.most, self._items)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self._items // self.batch_size

    @property
    def _items(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def seed_of(self, epoch: int) -> int:
        """The seed of the order; the next number is that of `generator`."""
        return epoch_seed(self.seed, self.stage, epoch)

    def generator(self, epoch: int) -> torch.Generator:
        """What everything else in the epoch is drawn from, on the device."""
        return torch.Generator(self.device).manual_seed(self.seed_of(epoch) + 1)

    def order(self, epoch: int) -> Tensor:
        """The items of an epoch (steps * batch_size,), on the CPU."""
        order = torch.randperm(self._items, generator=torch.Generator().manual_seed(self.seed_of(epoch)))
        if self.rows is not None:
            order = self.rows[order]
        return order[: self.steps * self.batch_size]

    def run(
        self,
        epoch: int,
        step: Step,
        *,
        before_step: Callable[[float], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """One epoch; the sums over its steps of the scalars that `step` gives, by name. It waits for the device once.

        Args:
            step: called with a batch, the generator, and the number of the step in the whole training.
            before_step: called with the share of the training that is done, in [0, 1): for learning rates.
            generator: that of `generator`, where something was drawn from it already.

        Raises:
            DivergedError: one of the sums is NaN or infinite.
        """
        generator = generator or self.generator(epoch)
        chooser = pace()
        if chooser is not None:
            chooser.begin(self.title)
        totals: dict[str, Tensor] = {}
        batches = self.source.batches(self.order(epoch), self.batch_size, self.device)
        with progress_bar(f"{self.title} {epoch + 1}/{self.count}", self.steps) as advance:
            for number, batch in enumerate(batches, epoch * self.steps):
                if before_step is not None:
                    before_step(number / (self.count * self.steps))
                with chooser.step() if chooser is not None else contextlib.nullcontext():
                    values = step(batch, generator, number)
                for name, value in values.items():
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + value.detach()
                advance()
        sums = {name: float(total) for name, total in totals.items()}
        self._check_finite(sums, epoch)
        return sums

    def _check_finite(self, sums: dict[str, float], epoch: int) -> None:
        for name, value in sums.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.title} diverged in epoch {epoch + 1} of {self.count}: {name} is {value}; "
                    "train again with a smaller lr= or a smaller weight of the loss, or with precision='fp32'"
                )

    def means(self, epoch: int, step: Step, *, before_step: Callable[[float], None] | None = None) -> dict[str, float]:
        """As `run`, with means over the steps."""
        totals = self.run(epoch, step, before_step=before_step)
        return {name: total / self.steps for name, total in totals.items()}


class ResumableTraining(Protocol):
    """A training that continues from a checkpoint per epoch."""

    @property
    def epochs(self) -> Epochs:
        """Its passes."""
        ...

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; numbers to log."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        ...

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Likewise."""
        ...


def train_in_folder(
    folder: Path,
    config: Record,
    training: ResumableTraining,
    *,
    metrics: bool = False,
    after: Callable[[int], None] = lambda epoch: None,
) -> None:
    """All epochs of a training, from the folder's checkpoint on where it has one.

    Args:
        config: what decides the training; a checkpoint of another is refused.
        metrics: whether each epoch's numbers go to metrics.jsonl, too.
        after: called with each epoch's number, from 0, once it is kept; of several processes, in the first alone.
    """
    us = processes()
    done, passes = (read_progress(folder, config) or Progress()).epoch, training.epochs
    if done:
        load_checkpoint(folder, training.modules(), training.optimizers())
    us.wait()  # all have read the same
    journal = Journal(folder if metrics and us.is_first else None, (0, done))
    for epoch in range(done, passes.count):
        began = time.perf_counter()
        numbers = training.epoch(epoch)
        numbers["seconds"] = round(time.perf_counter() - began, 1)
        numbers["threads"] = torch.get_num_threads()
        log_epoch(passes.title, epoch, passes.count, numbers)
        journal.write({"epoch": epoch + 1, **numbers})
        if us.is_first:
            save_checkpoint(folder, config, Progress(0, epoch + 1), training.modules(), training.optimizers())
            with alone():
                after(epoch)
        us.wait()
