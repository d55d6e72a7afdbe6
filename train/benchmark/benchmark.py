"""`guard.benchmark`: file -> plan -> runs, divided among the processes that work on it -> rows -> report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from guard.artefact.places import check_unclaimed, writable_folder
from guard.benchmark_file import BenchmarkFile
from guard.errors import GuardError
from guard.requests import BenchmarkRequest

from ..engine.precision import computing_in
from ..engine.progress import said_on_a_terminal
from . import counterparts, training
from .file import read
from .measure import key, measured
from .plan import Plan, Run, train_request
from .planning import check_arguments, planned
from .report import FILES, write_report
from .results import LOCKS, NAME, Results, Row, Rows, row_id
from .sets import Sets, by_choice, open_sets
from .turns import POLL, turn

log = logging.getLogger("ood_guard")


def benchmark(request: BenchmarkRequest) -> Results:
    """See `guard.benchmark`."""
    asked, folder = read(request)
    check_arguments(asked)
    if asked.compare is not None:
        counterparts.check_installed()
    first = {k: v for k, v in asked.training.items() if k not in ("init", "outliers")}
    geometry = train_request(asked, asked.backbones[0], {"method": "plain", **first}, seed=asked.seeds[0])
    check_unclaimed(writable_folder(str(asked.out)), [NAME, LOCKS], FILES)
    plans = plans_of(asked, folder, open_sets(asked, folder, geometry), planned)
    rows = Rows(plans[0].out)
    try:
        with computing_in(geometry.precision):
            _work(plans, rows)
    except Exception:  # hours may have been measured before it
        if (there := of_plans(plans, rows.read())).rows:
            write_report(asked, there)
        raise
    return write_report(asked, of_plans(plans, rows.read()))


def plans_of(
    asked: BenchmarkFile, folder: Path, every: Sets, made: Callable[[BenchmarkFile, Path, Sets], Plan]
) -> list[Plan]:
    """A plan, `made` so, for each choice of left-out classes, with its seeds; one where no classes are left out."""
    found = by_choice(asked, every)
    seeds = [asked.seeds[i :: len(found)] if asked.data.by_seed else asked.seeds for i in range(len(found))]
    return [
        made(asked.model_copy(update={"seeds": some}), folder, sets)
        for sets, some in zip(found, seeds, strict=True)
        if some
    ]


def of_plans(plans: Sequence[Plan], there: Mapping[str, Row]) -> Results:
    """The rows of all choices of classes, those of one method and score together."""
    parts = [of_plan(plan, there) for plan in plans]
    return replace(parts[0], rows=[row for part in parts for row in part.rows])


def of_plan(plan: Plan, there: Mapping[str, Row]) -> Results:
    """The rows that the plan asks for, of those that are there, in the order of the file."""
    found, position = [], {name: i for i, name in enumerate(plan.asked.methods)}
    for run in sorted(plan.runs, key=lambda run: (plan.asked.backbones.index(run.backbone), position[run.name])):
        for score in run.scores:
            row = there.get(row_id(key(plan, run, score)))
            names = [name for name in plan.sets.ood if row is not None and _has(plan, row, name)]
            if row is not None and names:
                found.append({**row, "ood": {name: row["ood"][name] for name in names}})
    other = tuple(name for name in plan.sets.ood if name not in (*plan.sets.near, *plan.sets.far))
    return Results(plan.out, found, plan.sets.near, plan.sets.far, other)


def _has(plan: Plan, row: Row, name: str) -> bool:
    there = row["ood"].get(name)
    return there is not None and there["images"] == plan.sets.identity(name)


def missing(plan: Plan, run: Run, there: Mapping[str, Row]) -> dict[str, list[str]]:
    """What is not measured yet of a run: scores, each with OOD sets."""
    found = {}
    for score in run.scores:
        row = there.get(row_id(key(plan, run, score)))
        names = [name for name in plan.sets.ood if row is None or not _has(plan, row, name)]
        if names:
            found[score.label] = names
    return found


@dataclass
class _Pace:
    """How many runs there are to do, and what the done ones took."""

    total: int
    done: int = 0
    began: float = field(default_factory=time.perf_counter)

    def said(self, run: Run, left: int) -> str:
        """For the terminal: which run of how many, and the time left once a run shows how long one takes."""
        text = f"run {self.total - left + 1} of {self.total}: {run.title}"
        if not self.done:
            return text
        minutes = (time.perf_counter() - self.began) / self.done * left / 60
        return f"{text}; about {f'{minutes / 60:.1f} h' if minutes > 90 else f'{max(1, round(minutes))} min'} left"


def _work(plans: Sequence[Plan], rows: Rows) -> None:
    """Do what is missing and nobody holds, until nothing is missing."""

    def to_do() -> list[tuple[Plan, Run]]:
        return [(plan, run) for plan in plans for run in _todo(plan, rows)]

    pace, waiting = _Pace(len(to_do())), False
    while todo := to_do():
        for plan, run in todo:
            if not training.is_trained(plan, run) and not _ready(plan, run):
                continue
            with turn(plan.out / LOCKS / f"{run.place.replace('/', '-')}.lock") as ours:
                if not ours or (plan, run) not in (left := to_do()):
                    continue
                said_on_a_terminal(pace.said(run, len(left)))
                _do(plan, run, rows)
                pace.done, waiting = pace.done + 1, False
                break
        else:
            if not waiting:
                said_on_a_terminal("waiting for runs that other processes are at")
            waiting = True
            time.sleep(POLL)


def _ready(plan: Plan, run: Run) -> bool:
    """Whether the runs that it starts from are trained."""
    return all(training.is_trained(plan, needed) for needed in run.needs.values())


def _todo(plan: Plan, rows: Rows) -> list[Run]:
    """Runs that are not measured, and those that a training among them starts from."""
    there = rows.read()
    wanted = {run.place for run in plan.runs if missing(plan, run, there)}
    for run in reversed(plan.runs):  # needed runs come before
        if run.place in wanted and not training.is_trained(plan, run):
            wanted |= {needed.place for needed in run.needs.values() if not training.is_trained(plan, needed)}
    return [run for run in plan.runs if run.place in wanted]


def _do(plan: Plan, run: Run, rows: Rows) -> None:
    """Train a run and measure what is missing of it; what is raised names the run."""
    wanted = missing(plan, run, rows.read())
    log.info("benchmark: %s", run.title)
    try:
        if not wanted:
            training.trained(plan, run)
            return
        rows.add(measured(plan, run, wanted))
    except GuardError as error:
        error.begin_with(run.title)
        raise
    except Exception as error:
        error.add_note(f"in the benchmark's run {run.title}")
        raise
