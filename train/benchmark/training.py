"""One run of a benchmark: trained in its folder, resumed there, read from it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from guard.artefact.files import FOLDER_MANIFEST, write_atomic
from guard.detector import Guard
from guard.errors import ConfigError

from ..outliers.sources import weighted
from ..runs.synth import synth
from ..runs.train import train
from .card import CARD, Card, card_of
from .plan import STORE, Plan, Run
from .results import LOCKS
from .turns import turn

log = logging.getLogger("ood_guard")

TICK = 10.0  # seconds between notes of how long a training has taken: what a kill may lose


def is_trained(plan: Plan, run: Run) -> bool:
    """Whether the run's folder holds the network that is asked for."""
    folder = plan.place(run)
    card = card_of(folder)
    return card is not None and card.identity == plan.identity(run) and (folder / FOLDER_MANIFEST).exists()


def trained(plan: Plan, run: Run) -> Guard:
    """The run's guard, read or trained now; the runs that it needs are there.

    A folder with a training of other settings is put aside, and comes back with its settings.

    Raises:
        ConfigError: the folder holds something that no benchmark made.
    """
    folder = plan.place(run)
    _put_aside(folder, plan.identity(run))
    device = plan.request(run).device
    if is_trained(plan, run):
        return Guard.from_pretrained(folder, device=device)
    _make_stores(plan, run)
    request = plan.request(run, plan.sets.source).model_copy(update={"resume": folder.exists()})
    before = [card_of(plan.place(one)) for one in run.ancestors()]
    start = Card(
        identity=plan.identity(run),
        before=sum(card.seconds for card in before if card is not None),
        asked=plan.asked_for(run),
    )
    with _clock(folder, start):
        return train(request, shared={"epochs", *plan.asked.training} - set(run.arguments))


def seconds(plan: Plan, run: Run) -> float:
    """What the training took, with those that it starts from."""
    card = card_of(plan.place(run))
    return 0.0 if card is None else card.seconds + card.before


def _put_aside(folder: Path, identity: str) -> None:
    card = card_of(folder)
    if card is None and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds what no benchmark made; remove it, or choose another out")
    if card is not None and card.identity != identity:
        aside = _aside(folder, card.identity)
        log.info("%s was trained with other settings and is now %s", folder, aside.name)
        folder.rename(aside)
    if not folder.exists() and _aside(folder, identity).exists():
        _aside(folder, identity).rename(folder)


def _aside(folder: Path, identity: str) -> Path:
    return folder.with_name(f"{folder.name}~{identity}")


def _make_stores(plan: Plan, run: Run) -> None:
    """Fill the stores of outliers that the run learns from, one process at a time."""
    for what, _ in weighted({**plan.asked.training, **run.arguments}.get("outliers")):
        if not isinstance(what, str) or not what.startswith(STORE):
            continue
        name = what.removeprefix(STORE)
        folder = plan.store(name, run.seed)
        with turn(plan.out / LOCKS / f"{folder.name}.store.lock", wait=True):
            synth(plan.store_request(name, run.seed, plan.sets.source))


@contextlib.contextmanager
def _clock(folder: Path, start: Card) -> Iterator[None]:
    """Write into the folder how long it has been worked on, now and then, so that a kill loses little of it."""
    card = card_of(folder)
    spent, began, done = card.seconds if card is not None else 0.0, time.perf_counter(), threading.Event()

    def note() -> None:
        now = start.model_copy(update={"seconds": round(spent + time.perf_counter() - began, 1)})
        write_atomic(folder / CARD, now.model_dump_json().encode())

    def notes() -> None:
        while not done.wait(TICK):
            note()

    note()
    noting = threading.Thread(target=notes, daemon=True)
    noting.start()
    try:
        yield
    finally:
        done.set()
        noting.join()
        note()
