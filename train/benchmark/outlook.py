"""``guard benchmark FILE --plan``: what a benchmark would make, train and measure, with an estimate of what it takes.

Nothing is decoded, loaded or trained: sets of images that are not there count by the sizes that the file states, and
networks by their shapes (`network_cost`). Hours are work divided by `speeds`, each of a reported time.
"""

from __future__ import annotations

from dataclasses import replace

from guard.requests import BenchmarkRequest

from ..outliers.base import get_synthesiser
from ..outliers.store.fill import MOST_BY_DEFAULT
from ..runs.resolve import asked_method
from .benchmark import plans_of
from .expected import Line, Outlook
from .file import read
from .making import filling, images_of
from .outlook_text import written
from .plan import Plan, plain, train_request
from .planning import check_arguments, laid_out
from .results import Row, Rows
from .state import State, state_of, store_left
from .stated import inputs, stated_sets
from .weights_here import weights_of
from .work import Reckoner, RunWork

SHARED = {"built-in diffusion model", "encoder and generator"}  # trained once for all runs and stores of a seed


def outlook(request: BenchmarkRequest) -> Outlook:
    """See `guard.plan_benchmark`."""
    asked, folder = read(request)
    check_arguments(asked)
    found = inputs(asked, folder)
    first = {k: v for k, v in asked.training.items() if k not in ("init", "outliers")}
    geometry = train_request(asked, asked.backbones[0], {"method": "plain", **first}, seed=asked.seeds[0])
    plans = plans_of(asked, folder, stated_sets(asked, found, geometry), laid_out)
    rows = Rows(plans[0].out).read()
    lines, requests, spent = [], [], 0.0
    for plan in plans:
        reckoner = Reckoner(plan)
        lines += _once([*_stores(plan, reckoner), *_runs(plan, reckoner, rows)])
        requests += [plan.request(run) for run in plan.runs]
        spent += sum(state_of(plan, run, reckoner.stages(run), rows).spent for run in plan.runs)
    weights = weights_of(asked, [(one, asked_method(one).options) for one in requests])
    expected = Outlook(asked, len(requests), found, weights, _merged(lines), spent)
    return replace(expected, text=written(expected))


def _stores(plan: Plan, reckoner: Reckoner) -> list[tuple[int, Line]]:
    """Filling the stores of the key `stores`, each line with its seed."""
    lines = []
    images = images_of(plan.sets.source, reckoner.trained)
    for name in plan.asked.stores:
        for seed in plan.asked.seeds:
            asked = plan.store_request(name, seed)
            total = asked.count or min(MOST_BY_DEFAULT, images.count)
            maker = get_synthesiser(asked.method)(1, images.classes, **asked.options)
            folders = list((plan.out / "stores").glob(f"{plain(name)}-s{seed}-*"))
            left = min([1.0, *map(store_left, folders)])
            lines += [(seed, Line(f"store {name}", one, 1, left)) for one in filling(maker, total, images)]
    return lines


def _runs(plan: Plan, reckoner: Reckoner, rows: dict[str, Row]) -> list[tuple[int, Line]]:
    """What each run makes, trains and measures, each line with its seed."""
    lines = []
    for run in plan.runs:
        state, work = state_of(plan, run, reckoner.stages(run), rows), reckoner.of(run)
        lines += [(run.seed, line) for line in _lines(plan, work, state)]
    return lines


def _once(lines: list[tuple[int, Line]]) -> list[Line]:
    """Without the further trainings of a model that those of one seed share."""
    kept, shared = [], set()
    for seed, line in lines:
        key = (seed, line.task.what, line.task.amount)
        if line.task.what not in SHARED or key not in shared:
            kept.append(line)
        shared.add(key)
    return kept


def _lines(plan: Plan, work: RunWork, state: State) -> list[Line]:
    run, left, stages = work.run, list(state.stages), []
    name = run.name if not run.head else f"{run.name}, {run.head} head"
    name = name if len(plan.asked.backbones) == 1 else f"{name}, {run.backbone}"
    for task in work.tasks:
        if task.kind == "train":
            stages.append(Line(name, task, 1, left.pop(0)))
        elif task.kind == "measure":
            stages.append(Line(name, task, 1, state.measured))
        else:
            made = 0.0 if state.trained else 1.0
            folder = plan.place(run) / "outliers" / task.store
            stages.append(Line(name, task, 1, min(made, store_left(folder)) if task.store else made))
    return stages


def _merged(lines: list[Line]) -> list[Line]:
    """Lines that differ in their seeds alone as one."""
    found: dict[tuple[str, str, str, str], Line] = {}
    for line in lines:
        key = (line.method, line.task.kind, line.task.what, line.task.amount)
        there = found.get(key)
        found[key] = line if there is None else replace(there, times=there.times + 1, left=there.left + line.left)
    return list(found.values())
