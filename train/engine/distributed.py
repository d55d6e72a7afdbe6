"""Work that several processes share: ``accelerate launch -m guard synth ...``, or torchrun, on one machine or many.

All of them run the same program and see the same folder. Each does its share; what must be done once, one does alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)  # of the others' shares, which may take hours


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
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first goes through the block while the others wait for it; they come after, and find what it made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def processes() -> Processes:
    """Who we are. A launcher says so in the environment; without one there is this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(timeout=PATIENCE)
    return Processes(state.process_index, state.num_processes)
