"""Networks that are trained on the user's images before a stage begins, and kept so that a killed run resumes.

One safetensors file, replaced after every epoch, whose name holds a digest of everything that determines its content:
kind, options, seed, and which images (`keyed`). Random numbers come from (seed, epoch) alone, so a training that was
killed ends where an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError
from guard.record import Record

from ..engine.checkpoint import gather, put_back
from ..engine.distributed import processes
from ..engine.epochs import Epochs
from ..engine.journal import log_epoch
from ..engine.loader import Feed, Source
from ..engine.seeds import PREPARED_STAGE
from .keyed import kept_path

if TYPE_CHECKING:
    from ..outliers.base import IDBatch, Learner, PrepareContext

Update = Callable[["IDBatch", torch.Generator], dict[str, Tensor]]


class Schedule(Record):
    """How long such a network is trained: passes over the data in batches of `batch_size`."""

    epochs: int
    batch_size: int = 128


def train_kept(
    context: PrepareContext,
    network: Learner,
    update: Update,
    kind: str,
    options: Record,
    schedule: Schedule,
    before_step: Callable[[float], None] | None = None,
    source: Source | None = None,
) -> None:
    """Train `network` on the context's images, or resume where a killed run stopped, or take what is finished.

    It is in eval mode and without gradients afterwards.

    Args:
        network: on the context's device; its optimizers are kept with it until it is finished.
        update: one step on a batch, with all randomness from the generator; scalars to log, by name. Several processes
            call it with equal batches, which they divide as they like (`train.engine.divided`).
        kind: what it is called in file names and progress bars.
        options: what decides its form and its learning.
        before_step: called with the share of the training that is done, in [0, 1): for a schedule of learning rates.
        source: what to learn from in place of the images; `options` then say what it is.

    Raises:
        ArtefactDamagedError: the kept file cannot be read.
    """
    path = kept_path(context, kind, options, schedule)
    us, done = processes(), _load(path, network)
    us.wait()  # all have read the same
    items: Source = Feed(context.data) if source is None else source
    epochs = Epochs(kind, items, schedule.epochs, schedule.batch_size, context.seed, PREPARED_STAGE, context.device)

    def step(batch: IDBatch, generator: torch.Generator, number: int) -> dict[str, Tensor]:
        return update(batch, generator)

    for epoch in range(done, schedule.epochs):
        network.train()
        log_epoch(kind, epoch, schedule.epochs, epochs.means(epoch, step, before_step=before_step))
        if us.is_first:
            _keep(path, network, epoch + 1, schedule)
        us.wait()
    network.eval().requires_grad_(False)


def _keep(path: Path, network: Learner, done: int, schedule: Schedule) -> None:
    optimizers = network.optimizers() if done < schedule.epochs else {}
    write_atomic(path, save(gather({"network": network}, optimizers), {"epochs": str(done)}))


def _load(path: Path, network: Learner) -> int:
    """Put what is kept into the network; how many epochs it has been trained."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            done = int(file.metadata()["epochs"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping protocol)
        put_back(tensors, {"network": network}, network.optimizers())
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to train it anew") from None
    return done
