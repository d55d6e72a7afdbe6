"""The plan of a benchmark as numbers: tasks, hours by GPU, bytes, what is missing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from guard.benchmark_file import BenchmarkFile

from .stated import Input
from .task import Task
from .weights_here import Weights


@dataclass(frozen=True)
class Line:
    """One kind of task, over all seeds.

    Attributes:
        times: how often it is done. left: how many of these are left, a half-done one counting as a half.
    """

    method: str
    task: Task
    times: int
    left: float


@dataclass(frozen=True)
class Outlook:
    """What would be done.

    Attributes:
        lines: the tasks, in the order in which they are done.
        spent: hours that trainings took so far, on the machine that did them.
        text: all of it, for the terminal.
    """

    asked: BenchmarkFile
    runs: int
    inputs: list[Input]
    weights: list[Weights]
    lines: list[Line] = field(repr=False)
    spent: float = 0.0
    text: str = field(default="", repr=False)

    def hours(self, *, left: bool = False) -> dict[str, float]:
        """By GPU; those that are left."""
        found: dict[str, float] = defaultdict(float)
        for line in self.lines:
            if line.task.hours:
                found[line.task.speed.gpu] += line.task.hours * (line.left if left else line.times)
        return dict(found)

    @property
    def disk(self) -> float:
        """Bytes that are written in all, at most."""
        return sum(line.task.size * line.times for line in self.lines)

    @property
    def unknown(self) -> list[Line]:
        """Tasks for which no time was reported."""
        return [line for line in self.lines if line.task.work is None]

    @property
    def missing(self) -> list[str]:
        """What is not on this machine."""
        return [one.name for one in self.inputs if not one.there] + [w.name for w in self.weights if not w.there]

    def as_json(self) -> dict[str, Any]:
        """Numbers alone: hours by GPU, bytes, and each task."""
        tasks = [
            {
                "kind": line.task.kind,
                "method": line.method,
                "what": line.task.what,
                "amount": line.task.amount,
                "times": line.times,
                "left": line.left,
                "gpu": line.task.speed.gpu,
                "hours": line.task.hours,
                "bytes": line.task.size,
            }
            for line in self.lines
        ]
        left = self.hours(left=True)
        totals = {"hours": self.hours(), "hours_left": left, "bytes": self.disk, "missing": self.missing}
        return {"name": self.asked.name, "runs": self.runs, **totals, "tasks": tasks}

    def __str__(self) -> str:
        return self.text
