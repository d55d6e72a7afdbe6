"""What a training says of each epoch: a line in the log, and one in metrics.jsonl."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("ood_guard")


def log_epoch(title: str, epoch: int, epochs: int, numbers: Mapping[str, Any]) -> None:
    """A line in the log about an epoch, counted from 0: those of its numbers that are floats."""
    words = " ".join(f"{name} {value:.4g}" for name, value in numbers.items() if isinstance(value, float))
    log.info("%s %d/%d  %s", title, epoch + 1, epochs, words)


class Journal:
    """metrics.jsonl in a folder: a record per epoch, each with the position (stage, epochs done) that it was made at.

    Args:
        folder: None: nothing is written.
        done: the position that is resumed from; later lines, and one that a kill cut short, are dropped. None: all are.
    """

    def __init__(self, folder: Path | None, done: tuple[int, int] | None) -> None:
        self.path = folder / "metrics.jsonl" if folder is not None else None
        if self.path is None or not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines() if _is_before(line, done or (0, 0))]
        self.path.write_text("".join(f"{line}\n" for line in lines))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _is_before(line: str, done: tuple[int, int]) -> bool:
    try:
        record = json.loads(line)
        return (record.get("stage_index", 0), record["epoch"]) <= done
    except (ValueError, KeyError):  # a line that a kill cut short
        return False
