"""What of a benchmark is done already, by what lies in its folder; the images need not be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.artefact.files import FOLDER_MANIFEST
from guard.errors import GuardError

from ..engine.checkpoint import stopped_at
from ..methods.base import Stage
from ..outliers.store.card import read_card
from ..outliers.store.store import missing_shards
from .card import card_of
from .plan import Plan, Run
from .results import KEY, Row


@dataclass(frozen=True)
class State:
    """Shares that are left, 0 to 1, of a run's trainings and measurements.

    Attributes:
        stages: of each stage of the training. spent: hours that it has taken.
    """

    stages: tuple[float, ...]
    measured: float
    spent: float

    @property
    def trained(self) -> bool:
        return not any(self.stages)


def state_of(plan: Plan, run: Run, stages: Sequence[Stage], rows: Mapping[str, Row]) -> State:
    """Of a run whose folder may not exist; a folder of other settings counts as none."""
    folder, card = plan.place(run), card_of(plan.place(run))
    left = [1.0] * len(stages)
    if card is not None and card.asked not in ("", plan.asked_for(run), plan.asked_for(run, before=True)):
        card = None
    if card is not None and (folder / FOLDER_MANIFEST).exists():
        left = [0.0] * len(stages)
    elif card is not None and (begun := _progress(folder)) is not None:
        stage, epoch = begun
        done = [1.0] * stage + [epoch / stages[stage].epochs] if stage < len(stages) else [1.0] * len(stages)
        left = [1 - share for share in (*done, *[0.0] * (len(stages) - len(done)))]
    return State(tuple(left), _unmeasured(run, plan, rows), 0.0 if card is None else card.seconds / 3600)


def _progress(folder: Path) -> tuple[int, int] | None:
    try:
        found = stopped_at(folder)
    except GuardError:
        return None
    return None if found is None else (found.stage, found.epoch)


def _unmeasured(run: Run, plan: Plan, rows: Mapping[str, Row]) -> float:
    """The share of (score, OOD set) for which there is no row of the run's name."""
    named: dict[tuple[object, ...], set[str]] = {}
    for row in rows.values():
        named.setdefault(tuple(row[key] for key in KEY), set()).update(row["ood"])
    wanted = [
        (run.backbone, run.name, run.trained_head, run.seed, score.label, name)
        for score in run.scores
        for name in plan.sets.ood
    ]
    lacking = [one for one in wanted if one[-1] not in named.get(one[:-1], ())]
    return len(lacking) / max(1, len(wanted))


def store_left(folder: Path) -> float:
    """The share of a store's shards that are not there; 1 where there is no store."""
    try:
        card = read_card(folder)
    except GuardError:
        return 1.0
    return 1.0 if card is None else len(missing_shards(folder, card)) / len(card.shards())
