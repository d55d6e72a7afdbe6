"""How many threads a training on a CPU uses: one, or all, whichever takes its steps in less time.

Threads that share a step wait for the slowest of them. On two cores beside six busy processes an epoch of small images
took 140 s with two threads and 9 s with one; alone on them 1.6 s and 2.0 s. Nothing but the clock can tell, so the
first steps of a training are timed with one thread and with all, and again where they become far slower than they were.

Sums over several threads round otherwise than those of one. So one thread is taken only where it is clearly faster,
which it is on a busy machine alone, and the count is kept in every checkpoint: a resumed run continues with it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

import torch

from guard.cores import available_cores
from guard.launched import process_count

log = logging.getLogger("ood_guard")

TIMED = 3  # steps with each count, after one that is not counted
CLEARLY = 1.25  # times as long must a step take with all threads for one thread to be taken
SLOWER = 2.0  # times the best: the steps are timed again
LATELY = 9  # steps whose median is compared
AGAIN_S = 300.0  # seconds after which a training on one thread tries all again: the machine may be free by now


class Pace:
    """The thread count of the trainings in this process, chosen by the time of their steps.

    Args:
        most: threads to choose from: 1 or `most`.
        set_threads: puts a count into effect.
        clock: seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.threads = most
        self._most, self._set, self._clock = most, set_threads, clock
        self._title: str | None = None
        self._kept = False
        self._timing: list[int] = []  # counts that are still to be timed, the present one first
        self._times: dict[int, list[float]] = {}
        self._best = float("inf")
        self._lately: deque[float] = deque(maxlen=LATELY)
        self._decided = 0.0
        set_threads(most)

    def begin(self, title: str) -> None:
        """An epoch of the training `title` begins; the steps of another training take another time."""
        overdue = self.threads < self._most and self._clock() - self._decided > AGAIN_S
        if (title != self._title and not self._kept) or overdue:
            self._time_again()
        self._title, self._kept = title, False

    def keep(self, threads: int) -> None:
        """Continue with the count of a checkpoint, as far as there are cores."""
        self._use(min(threads, self._most))
        self._kept, self._timing, self._best, self._decided = True, [], float("inf"), self._clock()
        self._lately.clear()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around a step, to time it."""
        began = self._clock()
        yield
        self._took(self._clock() - began)

    def _took(self, seconds: float) -> None:
        if self._timing:
            self._timed(seconds)
            return
        self._lately.append(seconds)
        if len(self._lately) < LATELY:
            return
        usual = median(self._lately)
        if usual > SLOWER * self._best and self._most > 1:
            self._time_again()
        self._best = min(self._best, usual)

    def _time_again(self) -> None:
        if self._most == 1:
            return
        self._timing, self._times = [1, self._most], {1: [], self._most: []}
        self._lately.clear()
        self._use(1)

    def _timed(self, seconds: float) -> None:
        times = self._times[self.threads]
        times.append(seconds)
        one = self._times[1][1:]
        hopeless = self.threads > 1 and seconds > SLOWER * max(one) and len(times) > 1
        if len(times) <= TIMED and not hopeless:
            return
        self._timing.pop(0)
        if self._timing:
            self._use(self._timing[0])
            return
        self._decide()

    def _decide(self) -> None:
        took = {count: sum(times[1:]) / len(times[1:]) for count, times in self._times.items()}
        chosen = 1 if took[self._most] > CLEARLY * took[1] else self._most
        self._use(chosen)
        self._best, self._decided = took[chosen], self._clock()
        steps = ", ".join(f"{seconds * 1000:.3g} ms with {count}" for count, seconds in took.items())
        log.info("%s of torch's threads from here: a step takes %s", chosen, steps)

    def _use(self, threads: int) -> None:
        self.threads = threads
        self._set(threads)


_paces: list[Pace | None] = []


def pace() -> Pace | None:
    """What chooses the thread count now; None where it is fixed, on a GPU, and outside `paced`."""
    return _paces[-1] if _paces else None


@contextlib.contextmanager
def paced(threads: int | None, device: torch.device) -> Iterator[None]:
    """Train within it; torch has its own thread count again afterwards.

    Args:
        threads: a fixed count; None: one or all, as the clock says. All are torch's own, where the cores suffice, and
            what each of several processes uses.
    """
    before = torch.get_num_threads()
    most = min(before, available_cores())
    chooses = threads is None and device.type == "cpu" and process_count() == 1  # each would find another count
    _paces.append(Pace(most, set_threads=torch.set_num_threads) if chooses else None)
    if not chooses:
        torch.set_num_threads(threads or most)
    try:
        yield
    finally:
        _paces.pop()
        torch.set_num_threads(before)
