"""The thread count of a training, on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from guard.record import Record
from train.engine import threads
from train.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from train.engine.threads import AGAIN_S, CLEARLY, LATELY, TIMED, Pace, paced

FIRST = 2 * (TIMED + 1)  # steps until something is decided


class Machine:
    """A machine whose steps take `seconds[threads]`."""

    def __init__(self, most: int = 2, **seconds: float) -> None:
        self.now, self.used = 0.0, 0
        self.seconds = {1: seconds["one"], most: seconds["all"]}
        self.pace = Pace(most, set_threads=self._set, clock=lambda: self.now)

    def _set(self, count: int) -> None:
        self.used = count

    def steps(self, count: int) -> list[int]:
        """The thread counts of so many steps."""
        used = []
        for _ in range(count):
            used.append(self.used)
            with self.pace.step():
                self.now += self.seconds[self.used]
        return used


def test_all_threads_where_they_are_faster() -> None:
    machine = Machine(one=2.0, all=1.6)
    machine.pace.begin("plain")
    assert machine.steps(FIRST + 3) == [1] * 4 + [2] * 4 + [2] * 3


def test_one_thread_only_where_it_is_clearly_faster() -> None:
    for share, expected in ((CLEARLY - 0.1, 2), (CLEARLY + 0.1, 1)):
        machine = Machine(one=1.0, all=share)
        machine.pace.begin("plain")
        machine.steps(FIRST)
        assert machine.used == expected


def test_hopeless_steps_are_timed_once() -> None:
    machine = Machine(one=0.2, all=3.2)
    machine.pace.begin("plain")
    assert machine.steps(FIRST) == [1] * 4 + [2] * 2 + [1] * 2


def test_steps_that_become_slow_are_timed_again() -> None:
    machine = Machine(one=2.0, all=1.6)
    machine.pace.begin("plain")
    machine.steps(FIRST + LATELY)
    machine.seconds = {1: 3.0, 2: 60.0}
    machine.steps(LATELY + FIRST)
    assert machine.used == 1
    machine.steps(5 * LATELY)
    assert machine.used == 1  # what is usual by now is not timed over and over


def test_a_machine_that_is_free_again_gets_all_threads_back() -> None:
    machine = Machine(one=2.0, all=60.0)
    machine.pace.begin("plain")
    machine.steps(FIRST)
    machine.seconds = {1: 2.0, 2: 1.2}
    machine.pace.begin("plain")
    machine.steps(FIRST)
    assert machine.used == 1
    machine.now += AGAIN_S
    machine.pace.begin("plain")
    machine.steps(FIRST)
    assert machine.used == 2


def test_another_training_is_timed_by_itself() -> None:
    machine = Machine(one=1.0, all=9.0)
    machine.pace.begin("pair")
    machine.steps(FIRST)
    machine.pace.begin("pair")
    assert machine.steps(3) == [1] * 3
    machine.seconds = {1: 5.0, 2: 3.0}
    machine.pace.begin("plain")
    machine.steps(FIRST)
    assert machine.used == 2


def test_one_core_has_nothing_to_choose() -> None:
    machine = Machine(most=1, one=1.0, all=1.0)
    machine.pace.begin("plain")
    machine.seconds = {1: 50.0}
    assert set(machine.steps(40)) == {1}


class _Config(Record):
    pass


def test_a_resumed_training_keeps_its_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 2)
    counts: list[int] = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts[-1])
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    with paced(None, torch.device("cpu")):
        torch.set_num_threads(1)  # as if it had been the faster
        save_checkpoint(tmp_path, _Config(), Progress(0, 1), {"a": layer}, {})
    counts.append(2)
    with paced(None, torch.device("cpu")):
        load_checkpoint(tmp_path, {"a": layer}, {})
        chooser = threads.pace()
        assert chooser is not None
        chooser.begin("plain")
        assert counts[-1] == chooser.threads == 1
    assert counts[-1] == 2  # torch's own again


def test_a_given_count_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts[-1])
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    with paced(3, torch.device("cpu")):
        assert threads.pace() is None
        assert counts[-1] == 3
    assert counts[-1] == 2
