"""Networks that are trained on the user's images before a stage begins, and kept so that a killed run goes on.

One safetensors file, replaced after every epoch, whose name holds a digest of everything that decides its content:
kind, options, seed, and which images. Random numbers come from (seed, epoch) alone, so a training that was killed ends
where an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError, ConfigError
from guard.record import Record

from ..engine.checkpoint import gather, put_back
from ..engine.loader import Feed
from ..engine.stages import epoch_seed, progress_bar
from ..outliers.base import IDBatch, Learner, PrepareContext

log = logging.getLogger("ood_guard")

STAGE = 10_000  # its seeds are none of a training stage's

Network = TypeVar("Network", bound=nn.Module)
Update = Callable[[IDBatch, torch.Generator], dict[str, Tensor]]


class Schedule(Record):
    """How long such a network is trained: passes over the data in batches of `batch_size`."""

    epochs: int
    batch_size: int = 128


def epochs_showing(images: int, of: int) -> int:
    """Passes over `of` images that show at least `images` in all; at least 1."""
    return max(1, -(-images // of))


class Kept(tuple[Network, ...]):
    """At most one trained network, as a synthesiser holds it: it has a file of its own, so that checkpoints, which
    hold every submodule, need not hold it again."""

    def network(self, owner: str) -> Network:
        """The network.

        Raises:
            ConfigError: there is none yet.
        """
        if not self:
            raise ConfigError(f"{owner} decodes with a network that it trains first: call prepare before sample")
        return self[0]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights from `seed`, whatever was drawn before; the global generator goes on as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def kept_path(context: PrepareContext, kind: str, options: Record, schedule: Schedule | None = None) -> Path:
    """Where the network is kept, under a name of its own for everything that decides what it learns.

    Of what is made and not learned, too: that has no `schedule`.
    """
    data = context.data
    identity = {
        "options": options.model_dump(mode="json"),
        **({} if schedule is None else {"schedule": schedule.model_dump(mode="json")}),
        "seed": context.seed,
        "data": data.fingerprint,
        "rows": hashlib.sha256(data.rows.tobytes()).hexdigest(),
        "pixels": data.preprocess.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return context.folder / f"{kind}-{digest}.safetensors"


class Source(Protocol):
    """What is learned from, as a `Feed` is: a number of items, and batches of them in any order."""

    def __len__(self) -> int: ...

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[IDBatch]:
        """Batches of the items that `order` (n,) names, on `device`."""
        ...


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
    """Train `network` on the context's images, or go on where a killed run stopped, or take what is finished.

    It is in eval mode and without gradients afterwards.

    Args:
        network: on the context's device; its optimizers are kept with it until it is finished.
        update: one step on a batch, with all randomness from the generator; scalars to log, by name.
        kind: what it is called in file names and progress bars.
        options: what decides its form and its learning.
        before_step: called with the share of the training that is done, in [0, 1): for a schedule of learning rates.
        source: what to learn from in place of the images; `options` then say what it is.

    Raises:
        ArtefactDamagedError: the kept file cannot be read.
    """
    path = kept_path(context, kind, options, schedule)
    done = _load(path, network)
    feed: Source = Feed(context.data) if source is None else source
    size = min(schedule.batch_size, len(feed))
    for epoch in range(done, schedule.epochs):
        network.train()
        seed = epoch_seed(context.seed, STAGE, epoch)
        order = torch.randperm(len(feed), generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator(context.device).manual_seed(seed + 1)
        steps = len(feed) // size
        totals: dict[str, Tensor] = {}
        with progress_bar(f"{kind} {epoch + 1}/{schedule.epochs}", steps) as advance:
            for step, batch in enumerate(feed.batches(order[: steps * size], size, context.device)):
                if before_step is not None:
                    before_step((epoch * steps + step) / (schedule.epochs * steps))
                for name, value in update(batch, generator).items():
                    totals[name] = totals.get(name, torch.zeros((), device=context.device)) + value.detach()
                advance()
        numbers = " ".join(f"{name} {float(total) / steps:.4g}" for name, total in totals.items())
        log.info("%s %d/%d  %s", kind, epoch + 1, schedule.epochs, numbers)
        _keep(path, network, epoch + 1, schedule)
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
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to train it anew") from None
    return done
