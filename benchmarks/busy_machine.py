"""A training beside busy processes: with torch's threads, with one, and with the count that the clock chooses.

    python -m benchmarks.busy_machine                  # 3 busy processes per core; some 25 minutes on two cores
    python -m benchmarks.busy_machine --busy 0         # alone

The demo's training (digits 0 to 7, default network), for `--epochs`. Each way is run in turn, `--rounds` times, as a
process of its own; shares are of the same round's run with one thread. Threads that share a step wait for the slowest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guard.cores import available_cores
from guard.latency.machine import describe, machine

RESULTS = Path(__file__).parent / "results"
WAYS = {"one": 1, "all": available_cores(), "chosen": None}
_BUSY = "while True: pass"
_TRAIN = """
import sys, time, guard
began = time.perf_counter()
guard.train("digits:0-7", epochs=int(sys.argv[1]), threads=int(sys.argv[2]) or None)
print(time.perf_counter() - began)
"""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(epochs: int, threads: int | None) -> float:
    """How long a training takes, without starting Python."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", _TRAIN, str(epochs), str(threads or 0)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def table(measured: dict[str, Any]) -> str:
    """Markdown: seconds (median) and shares of one thread's (median of rounds)."""
    lines = [
        "# A training beside busy processes",
        "",
        f"`python -m benchmarks.busy_machine`, {measured['epochs']} epochs, {measured['rounds']} rounds; "
        f"{describe(measured['machine'])}.",
        "",
        "| busy processes per core | threads | seconds | share of one thread's |",
        "|---|---|---|---|",
    ]
    for part in measured["parts"]:
        for way, times in part["seconds"].items():
            shares = [time / one for time, one in zip(times, part["seconds"]["one"], strict=True)]
            name = f"{way} ({WAYS[way]})" if WAYS[way] else way
            spent, share = statistics.median(times), statistics.median(shares)
            lines.append(f"| {part['busy']} | {name} | {spent:.1f} | {share:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 3], help="busy processes per core")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results")
    asked = parser.parse_args()
    parts = []
    for each in asked.busy:
        with busy(each * available_cores()):
            rounds = [{way: seconds(asked.epochs, count) for way, count in WAYS.items()} for _ in range(asked.rounds)]
        parts.append({"busy": each, "seconds": {way: [times[way] for times in rounds] for way in WAYS}})
    measured = {"epochs": asked.epochs, "rounds": asked.rounds, "parts": parts, "machine": machine()}
    print(table(measured))
    if asked.write:
        (RESULTS / "busy_machine.json").write_text(json.dumps(measured, indent=1) + "\n")
        (RESULTS / "busy_machine.md").write_text(table(measured))


if __name__ == "__main__":
    main()
