"""Groups of images -> verdicts, in the order given, in processes that decode and score: for an exported guard on a CPU.

Each has one thread, so none waits for another, and decoding runs beside scoring. They are started anew, not forked:
nothing of the caller's threads, locks or torch is in them, and a script needs no ``if __name__ == "__main__"``. Each is
asked for one group at a time; one that is killed is replaced, and its group is asked for again.
"""

from __future__ import annotations

import collections
import os
import subprocess
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, GuardError
from ..own_python import own_python
from .reading import Reading
from .scoring import Scored

_TRIES = 2


@dataclass(frozen=True)
class Job:
    """What a process is told first: the file, its manifest (which may have another calibration), and limits."""

    path: Path
    manifest: str
    runtime: str
    max_pixels: int


def scored_apart(
    job: Job, source: Reading, groups: Iterable[np.ndarray], labels: np.ndarray | None, *, workers: int
) -> Generator[Scored, None, None]:
    """Score each group of rows in one of `workers` processes.

    Raises:
        DataError: a process was killed twice by the same group.
        GuardError: what a process raised.
    """
    pool = Processes(job)
    waiting: collections.deque[Future[Scored]] = collections.deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for rows in groups:
                if len(waiting) > workers + max(2, workers // 4):  # a group of large photographs is large
                    yield waiting.popleft().result()
                given = None if labels is None else labels[rows]
                waiting.append(threads.submit(pool.score, source.items(rows), given, rows))
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.end()


class Processes:
    """A process for every thread that asks."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock, self._ended = threading.Lock(), False
        self._of_thread: dict[int, Process] = {}

    def score(self, items: list[Any], given: np.ndarray | None, rows: np.ndarray) -> Scored:
        """Ask this thread's process, and wait for the answer; raises as `scored_apart` does."""
        for _ in range(_TRIES):
            process = self._mine()
            try:
                return process.score(items, given)
            except (EOFError, OSError):
                process.kill()
        raise DataError(
            f"a process that scores images ended twice at the images {rows[0]} to {rows[-1]} (out of memory?); use "
            "fewer workers, or a smaller batch_size; what is done is kept, and the same scan goes on from there"
        )

    def _mine(self) -> Process:
        thread = threading.get_ident()
        with self._lock:
            if self._ended:
                raise DataError("the scan was stopped")
            process = self._of_thread.get(thread)
            if process is None or not process.alive:
                process = self._of_thread[thread] = Process(self._job)
            return process

    def end(self) -> None:
        """Kill all of them, whatever they do, and start no more."""
        with self._lock:
            self._ended = True
            for process in self._of_thread.values():
                process.kill()


class Process:
    """One of them: see `worker`."""

    def __init__(self, job: Job) -> None:
        command = own_python("guard.scanning.worker")
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._running.stdin is not None  # pipes
        assert self._running.stdout is not None
        self._asking = Connection(os.dup(self._running.stdin.fileno()), readable=False)
        self._answering = Connection(os.dup(self._running.stdout.fileno()), writable=False)
        self._running.stdin.close()
        self._running.stdout.close()
        self._job: Job | None = job
        self.alive = True

    def score(self, items: list[Any], given: np.ndarray | None) -> Scored:
        """Raises: EOFError, OSError: it is gone. GuardError: what it raised."""
        if self._job is not None:
            self._asking.send(self._job)
            self._job = None
        self._asking.send((items, given))
        answer = self._answering.recv()
        if isinstance(answer, GuardError):
            raise answer
        return answer  # type: ignore[no-any-return]

    def kill(self) -> None:
        """A thread that waits for its answer meets the end of the pipe."""
        self.alive = False
        self._running.kill()
        self._running.wait()
