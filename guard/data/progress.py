"""A progress bar for people: on a terminal's standard error alone, never in a log file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import Protocol, TypeVar

_FEWEST = 2048  # images; fewer are done before a bar could be read


class Counted(Protocol):
    """A part of the work: `count` images."""

    @property
    def count(self) -> int: ...


Part = TypeVar("Part", bound=Counted)


def with_progress(stream: Generator[Part, None, None], total: int, text: str) -> Generator[Part, None, None]:
    """Pass parts on, with a bar that says `text` beside it; closing this closes `stream`."""
    with contextlib.closing(stream):
        if total < _FEWEST or not sys.stderr.isatty():
            yield from stream
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(text, total=total)
            for part in stream:
                yield part
                progress.advance(task, part.count)
