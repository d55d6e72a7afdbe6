"""What each run holds out of the images, drawn before anything is made or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guard.benchmark_file import BenchmarkFile
from guard.data.held_out import Draw, Rows, Splits
from guard.errors import CalibrationError, ConfigError, DataError

from .plan import Run, held_out
from .sets import Sets


def check_draws(asked: BenchmarkFile, sets: Sets, runs: Sequence[Run]) -> None:
    """Draw what the runs hold out, each split once.

    Raises:
        DataError, CalibrationError: more or fewer images than can be held out, with the method and its keys.
        ConfigError: methods that would be measured on different images, though the report compares them.
    """
    drawn: dict[tuple[Any, ...], Rows] = {}
    first: dict[int, Run] = {}
    for run in runs:
        told = held_out({**asked.training, **run.arguments})
        key = (run.seed, told.get("calibration"), told.get("test"))
        if key not in drawn:
            drawn[key] = _drawn(run, told, sets, asked.alpha)
        other = first.setdefault(run.seed, run)
        theirs = held_out({**asked.training, **other.arguments})
        test = drawn[run.seed, theirs.get("calibration"), theirs.get("test")]["test"]
        if sets.test is None and not np.array_equal(drawn[key]["test"], test):
            raise ConfigError(
                f"method {run.name!r} of the benchmark holds out test={told.get('test', 'the default')}, method "
                f"{other.name!r} test={theirs.get('test', 'the default')}: they would be measured on different images; "
                "say test under training:"
            )


def _drawn(run: Run, told: Mapping[str, Any], sets: Sets, alpha: float) -> Rows:
    draw = Draw(run.seed, told.get("calibration"), told.get("test"))
    try:
        return Splits.draw(sets.source, draw, alpha=alpha).rows
    except (DataError, CalibrationError) as error:
        said = ", ".join(f"{key}: {value}" for key, value in told.items())
        error.begin_with(f"method {run.name!r} of the benchmark, {said or 'default splits'}, seed {run.seed}")
        raise
