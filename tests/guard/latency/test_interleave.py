"""The ratios come out right for contenders whose cost is known."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from guard.latency import interleave as module
from guard.latency.interleave import interleave
from guard.latency.machine import describe, machine


class Clock:
    """A clock that contenders advance, in place of time.perf_counter."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def contender(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes `seconds`, one after the other, over and over."""
        calls = 0

        def call() -> None:
            nonlocal calls
            self.calls.append(name)
            self.now += seconds[calls % len(seconds)]
            calls += 1

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: made.now)
    return made


def test_ratios_are_over_the_first(clock: Clock) -> None:
    timings = interleave({"base": clock.contender("base", 0.002), "slow": clock.contender("slow", 0.003)}, rounds=5)
    assert timings["base"].ratio == timings["base"].low == timings["base"].high == 1
    assert timings["slow"].ratio == pytest.approx(1.5)
    assert timings["slow"].seconds == pytest.approx(0.003)


def test_a_rare_stall_does_not_move_the_ratio(clock: Clock) -> None:
    stalling = clock.contender("b", *[0.001] * 19, 0.5)
    timings = interleave({"a": clock.contender("a", 0.001), "b": stalling}, rounds=5)
    assert timings["b"].ratio == pytest.approx(1)


def test_contenders_share_every_round(clock: Clock) -> None:
    calls = {name: clock.contender(name, 0.01) for name in ("a", "b", "c")}
    interleave(calls, rounds=4, round_s=0.03, block_s=0.005)
    passes = clock.calls[-36:]  # 4 rounds of 3 passes of 3 contenders, one call each (none untimed)
    for start in range(0, 36, 3):
        assert sorted(passes[start : start + 3]) == ["a", "b", "c"]
    assert len({tuple(passes[start : start + 3]) for start in range(0, 36, 3)}) > 1  # not always in one order


def test_real_time_is_measured() -> None:
    timings = interleave(
        {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.004)}, rounds=3, round_s=0.01
    )
    assert 1.5 < timings["long"].ratio < 6


def test_a_machine_is_described_without_its_name() -> None:
    import platform

    facts = machine()
    assert facts["cores"] >= 1
    assert facts["packages"]["numpy"]
    assert platform.node() not in describe(facts) or not platform.node()
