"""How much memory does fitting a score take, when a million features stream by?

    python -m benchmarks.fit_memory            # about 3 minutes on one core; results/fit_memory.json and .md
    python -m benchmarks.fit_memory --only knn # to the terminal only

Every fitted score, in a process of its own: 1,000,000 x 512 random features with logits of 100 classes and labels,
drawn batch by batch (4,096), so that what is held is the score's. A small fit before the measurement loads the
libraries. Measured is the peak of resident memory during begin, update and finish, above what there was before them;
one batch and its temporaries are part of it. The features alone would be 1.9 GiB: what a library that fits on a tensor
needs to begin with. Gram reads 5 statistics per channel instead, 2,560 numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import peak_above
from guard.heads import LastLayer
from guard.latency.machine import describe, machine
from guard.scores import Score, create_score, get_score, list_scores

RESULTS = Path(__file__).parent / "results"
IMAGES, WIDTH, CLASSES, BATCH = 1_000_000, 512, 100, 4096
STATISTICS = 5 * WIDTH  # of a score of layers
GOAL_MIB = 1.5e9 / 2**20


@dataclass(frozen=True)
class Case:
    """A row: a score and its options; `goal` is False for the one that keeps everything."""

    score: str
    options: dict[str, Any]
    goal: bool = True


def cases() -> list[Case]:
    """Every registered score that is fitted to data, with its defaults; kNN with its other banks too."""
    fitted = [name for name in list_scores() if get_score(name).needs_fit and not get_score(name).trained_by]
    return [
        *(Case(name, {}) for name in fitted),
        Case("knn", {"max_bank": 500, "select": "k_centre"}),
        Case("knn", {"max_bank": None}, goal=False),
    ]


def fit_stream(score: Score, images: int) -> None:
    """Fit to that many random images, never more than a batch of them in memory."""
    generator = torch.Generator().manual_seed(0)
    layer = LastLayer(torch.randn(CLASSES, WIDTH, generator=generator) / 16, torch.zeros(CLASSES))
    score.begin(WIDTH, CLASSES, layer)
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        features = torch.randn(count, WIDTH, generator=generator).relu_()
        logits = features @ layer.weight.T
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        layers = "layer maps" in score.needs
        statistics = torch.randn(count, STATISTICS, generator=generator) if layers else None
        score.update(features, logits, labels, statistics)
    score.finish()


def measure(case: Case, images: int) -> dict[str, float]:
    """Peak and state in MiB, seconds; called in a process of its own."""
    torch.set_num_threads(1)
    with torch.no_grad():
        fit_stream(create_score(case.score, **case.options), 2 * BATCH)
        score = create_score(case.score, **case.options)
        began = time.perf_counter()
        peak = peak_above(lambda: fit_stream(score, images))
    state = sum(value.numel() * value.element_size() for value in score.state_dict().values())
    return {"peak_mib": peak, "state_mib": state / 2**20, "seconds": time.perf_counter() - began}


def in_own_process(case: Case, images: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.fit_memory", "--images", str(images)]
    command += ["--case", json.dumps({"score": case.score, "options": case.options})]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"fitting {case.score} {case.options} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings = result["settings"]
    lines = ["| score | options | peak, MiB | fitted state, MiB | s |", "|" + " --- |" * 5]
    for row in result["rows"]:
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items()) or "default"
        peak = f"{row['peak_mib']:.0f}" + ("" if row["goal"] else " (keeps every feature)")
        cells = (f"`{row['score']}`", options, peak, f"{row['state_mib']:.1f}", f"{row['seconds']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return f"""# Memory of fitting a score to {settings["images"]:,} x {settings["width"]} features

Peak resident memory above that before the fit, in batches of {settings["batch"]:,}, {settings["classes"]:,} classes,
one thread; `benchmarks/fit_memory.py` says how. Goal: at most {GOAL_MIB:.0f} MiB (1.5 GB) for every score but the kNN
bank that keeps everything. The machine was not idle: the seconds are no benchmark.

{describe(result["machine"])}

{chr(10).join(lines)}
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="scores to measure; prints and writes nothing")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what the processes are started with
    a = parser.parse_args()
    if a.case:
        print(json.dumps(measure(Case(**json.loads(a.case)), a.images)))
        return
    rows: list[dict[str, Any]] = []
    for case in cases():
        if a.only and case.score not in a.only:
            continue
        numbers = in_own_process(case, a.images)
        rows.append({"score": case.score, "options": case.options, "goal": case.goal, **numbers})
        print(
            f"{case.score} {case.options or ''}: {numbers['peak_mib']:.0f} MiB, {numbers['seconds']:.0f} s", flush=True
        )
    result = {
        "benchmark": "fit_memory",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": {"images": a.images, "width": WIDTH, "classes": CLASSES, "batch": BATCH, "goal_mib": GOAL_MIB},
        "rows": rows,
    }
    if not a.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "fit_memory.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "fit_memory.md").write_text(report(result))
    missed = [row for row in rows if row["goal"] and row["peak_mib"] > GOAL_MIB]
    print("over the goal: " + (", ".join(row["score"] for row in missed) or "none"))


if __name__ == "__main__":
    main()
