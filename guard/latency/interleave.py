"""Compare timings on a machine that is not quiet: interleave finely, take ratios inside a round, show a control.

A round gives every contender at least `round_s` of calls, in short blocks in random order, so that whatever else the
machine does meets all of them alike. A contender's time in a round is the median of its calls; its ratio is that over
the first contender's in the same round; reported are the median and the quartiles of the ratios over the rounds. A
second copy of the first contender, run like any other, shows how far from 1 a ratio strays by chance.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds per call (median over rounds; `p99` of all calls), and the ratio to the first contender: median and
    quartiles."""

    seconds: float
    ratio: float
    low: float
    high: float
    p99: float = math.nan


def interleave(
    calls: dict[str, Callable[[], object]],
    *,
    rounds: int = 15,
    round_s: float = 0.05,
    block_s: float = 0.005,
    seed: int = 0,
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:
    """Time each of `calls`; the first is what the ratios are over.

    Args:
        rounds: how many ratios there are.
        round_s: least time per contender and round, in seconds, at the first contender's pace.
        block_s: aimed length of a block; one call where a call is longer.
        clock: seconds; default time.perf_counter. time.process_time for one thread on a busy machine.

    Each block starts with an untimed call where that is cheap: it finds the caches, and the other contender's threads
    still spinning, as the block before left them.
    """
    names = list(calls)
    shuffle = random.Random(seed).shuffle
    clock = clock or time.perf_counter
    pace = _pace(calls[names[0]], clock)
    block = max(1, round(block_s / pace))
    blocks = max(1, math.ceil(round_s / (block * pace) - 1e-6))
    medians: dict[str, list[float]] = {name: [] for name in names}
    every: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        call()
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(blocks):
            shuffle(names)
            for name in names:
                times[name] += _block(calls[name], block, clock, warm=pace < block_s)
        for name in calls:
            medians[name].append(float(np.median(times[name])))
            every[name] += times[name]
    return _timings(medians, every)


def _pace(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds per call, roughly."""
    call()
    return min(_block(call, 3, clock, warm=False))


def _block(call: Callable[[], object], count: int, clock: Callable[[], float], *, warm: bool) -> list[float]:
    """Seconds of each of `count` calls in a row."""
    if warm:
        call()
    times = []
    for _ in range(count):
        began = clock()
        call()
        times.append(clock() - began)
    return times


def _timings(medians: dict[str, list[float]], every: dict[str, list[float]]) -> dict[str, Timing]:
    first = np.array(next(iter(medians.values())))
    result = {}
    for name, values in medians.items():
        low, middle, high = np.percentile(np.array(values) / first, [25, 50, 75])
        p99 = float(np.percentile(every[name], 99))
        result[name] = Timing(float(np.median(values)), float(middle), float(low), float(high), p99)
    return result
