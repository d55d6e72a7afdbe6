"""Work that several processes share: ``accelerate launch -m guard train ...``, or torchrun, on one machine or many.

All of them run the same program and see the same folder. Each does its share; what must be done once, one does alone.
What they share in every step of a training is in `divided`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

from guard.launched import is_first_process, process_count

PATIENCE = timedelta(days=7)  # of the others' shares, which may take hours

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Processes:
    """This process among `world`: its rank is 0 .. world - 1, and 0 is the first."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, numbers: list[int]) -> list[int]:
        """Those of the numbers that are this process's to do: n mod world = rank, whatever others have done already."""
        return [n for n in numbers if n % self.world == self.rank]

    def wait(self) -> None:
        """Until all processes are here."""
        self.first_says(True)

    def first_says(self, value: bool) -> bool:
        """What the first process finds, in all of them; they wait for each other."""
        return value if self.world == 1 else self._any(value and self.is_first)

    def all_say(self, value: bool) -> bool:
        """Whether every process finds so; they wait for each other."""
        return not self._any(not value)

    def _any(self, value: bool) -> bool:
        if self.world == 1:
            return value
        import torch

        found = torch.tensor([float(value)])
        torch.distributed.all_reduce(found)  # on the host: a device that waits for days is in nobody's way
        return bool(found.item())

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first goes through the block while the others wait for it; they come after, and find what it made.

        Nothing in the block is shared (`alone`). Where the first fails, its launcher ends the others.
        """
        if not self.is_first:
            self.wait()
        with alone():
            yield
        if self.is_first:
            self.wait()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it `processes` knows of no other process: each does the whole of what it comes to."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@contextlib.contextmanager
def first_speaks() -> Iterator[None]:
    """Within it the library's log is that of the first process; errors are everybody's."""
    log = logging.getLogger("ood_guard")
    before = log.level
    if not is_first_process():
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def processes() -> Processes:
    """Who works together here. A launcher says so in the environment; without one there is this process alone."""
    if process_count() == 1 or _ALONE.get():
        return Processes()
    _join()
    from torch import distributed

    return Processes(distributed.get_rank(), distributed.get_world_size())


def _join() -> None:
    """Meet the others, once; each process gets a device of its own."""
    from torch import cuda, distributed

    if distributed.is_initialized():
        return
    from accelerate import PartialState

    # both, whatever there is: networks may be asked to train on the CPU of a machine with GPUs
    backend = "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    atexit.register(_leave)
    PartialState()


def _leave() -> None:
    """End the group's threads before Python ends: one that finds it gone aborts the process, whose work was done."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
