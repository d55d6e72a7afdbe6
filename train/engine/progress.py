"""A progress bar for people; logs and files get none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guard.launched import is_first_process


@contextlib.contextmanager
def progress_bar(title: str, steps: int) -> Iterator[Callable[[], None]]:
    """Yields advance(); draws on a terminal's stderr only, and where several processes share it, for the first."""
    console = Console(stderr=True)
    if not console.is_terminal or not is_first_process():
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=steps)
        yield lambda: progress.advance(task)


def said_on_a_terminal(text: str) -> None:
    """A line for people at a terminal's stderr; logs and files do not get it."""
    console = Console(stderr=True)
    if console.is_terminal and is_first_process():
        console.print(text, style="bold", markup=False, highlight=False)
