"""What the parts share: their arguments, results that are written row by row, and one page of all of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from guard.latency.machine import describe, machine

PARTS = ("guard_cost", "engines", "training", "bank", "diffusion")
RESULTS = Path(__file__).parents[1] / "results" / "gpu"


class Part:
    """A part's results; every row is on the disk as soon as it is there, for the part may be stopped at any time.

    Attributes:
        toy: whether it runs on the CPU at toy size. device: where it runs.
    """

    def __init__(self, name: str, title: str, toy: bool, out: Path) -> None:
        self.toy, self.out, self.device = toy, out, torch.device("cpu" if toy else "cuda")
        self._began = time.perf_counter()
        self._record: dict[str, Any] = {
            "part": name,
            "title": title,
            "toy": toy,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "complete": False,
            "seconds": 0.0,
            "rows": [],
            "skipped": [],
        }
        self.write()

    def row(self, **columns: Any) -> None:
        """Another row of the part's table."""
        self._record["rows"].append(columns)
        print("  " + ", ".join(f"{key} {_shown(value)}" for key, value in columns.items()), flush=True)
        self.write()

    def skip(self, what: str, why: object) -> None:
        """Something that cannot be measured here."""
        sentence = f"{what}: {' '.join(str(why).split())[:300]}"
        self._record["skipped"].append(sentence)
        print(f"  skipped {sentence}", flush=True)
        self.write()

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Do it; where it fails the others go on, and the page says why."""
        try:
            work()
        except Exception as error:
            self.skip(what, f"{type(error).__name__}: {error}")
            return False
        return True

    def write(self, *, complete: bool = False) -> None:
        """The part's JSON, and the page of all parts."""
        self._record |= {"complete": complete, "seconds": round(time.perf_counter() - self._began, 1)}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{self._record['part']}.json").write_text(json.dumps(self._record, indent=1) + "\n")
        (self.out / "gpu.md").write_text(page(self.out))


def synchronise(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(name: str, title: str, measure: Callable[[Part], None]) -> None:
    """The command of a part."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--toy", action="store_true", help="on the CPU, in seconds; measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not given.toy and not torch.cuda.is_available():
        sys.exit(f"{name} measures a GPU and torch sees none; --toy runs it on the CPU at toy size")
    part = Part(name, title, given.toy, given.out)
    measure(part)
    part.write(complete=True)


def page(folder: Path) -> str:
    """Markdown of every part whose results are in the folder."""
    found = [json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").exists()]
    lines = ["# What a GPU says", "", "`benchmarks/gpu.sh` wrote this; benchmarks/gpu/ says what is measured.", ""]
    if any(part["toy"] for part in found):
        lines += ["**At toy size, on the CPU: that it runs is all that these numbers say.**", ""]
    for part in found:
        state = "" if part["complete"] else ", stopped before its end"
        lines += [f"## {part['title']}", "", f"{describe(part['machine'])}; {part['seconds']:.0f} s{state}", ""]
        lines += [*_table(part["rows"]), *(f"- skipped {what}" for what in part["skipped"]), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_shown(row.get(name, "")) for name in names] for row in rows]
    shown = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return [*shown, *("| " + " | ".join(row) + " |" for row in cells), ""]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
