"""Does the service survive the death of its workers, and lose nothing else?

    python -m benchmarks.serving_killed_workers         # 10 minutes, a worker killed every 30 s, reloads between
    python -m benchmarks.serving_killed_workers --quick --minutes 1 --kill-s 10

Two workers, 32 connections. Only what is in flight on the killed one may fail, and no count may be lost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import run
from benchmarks.service_watch import good_requests, memory_mib, workers, write

TOKEN = "benchmark"


def counted(base: str) -> dict[str, float]:
    """Images that the counters of all workers know of, and those in the drift test's state."""
    request = urllib.request.Request(f"{base}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    names = {"metrics": "guard_images_total{", "drift": "guard_drift_images{"}
    return {
        key: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
        for key, name in names.items()
    }


class Killer:
    """Kills a worker every `kill_s`, and reloads the guard half-way between, every second time."""

    def __init__(self, base: str, kill_s: float) -> None:
        self.base, self.kill_s = base, kill_s
        self.killed, self.reloads, self.memory = 0, list[Any](), list[float]()
        self._next = kill_s
        self._reloading: list[threading.Thread] = []

    def __call__(self, seconds: float) -> None:
        if seconds < self._next:
            return
        self._next += self.kill_s / 2
        step = round(self._next / (self.kill_s / 2))
        if step % 2:
            alive = workers(self.base)
            if len(alive) > 1:
                os.kill(alive[self.killed % len(alive)].pid, signal.SIGKILL)
                self.killed += 1
        elif step % 4 == 0:
            self._reloading.append(threading.Thread(target=self._reload))
            self._reloading[-1].start()
        else:
            self.memory.append(memory_mib(self.base))

    def _reload(self) -> None:
        request = urllib.request.Request(
            f"{self.base}/admin/reload", data=b"", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                self.reloads.append(json.loads(answer.read()))
        except OSError as error:
            self.reloads.append(str(error))

    def end(self) -> None:
        for thread in self._reloading:
            thread.join()


def kill_campaign(path: Path, minutes: float, kill_s: float) -> dict[str, Any]:
    """Load, kills and reloads for `minutes`."""
    from serving.runner import running_service

    good, right = good_requests(path)
    good = [g.replace(b"\r\n", f"\r\nAuthorization: Bearer {TOKEN}\r\n".encode(), 1) for g in good]
    wrong: list[bytes] = []

    def check(index: int, answer: bytes) -> None:
        if not right[index](answer):
            wrong.append(answer[-200:])

    settings = {"GUARD_TOKEN": TOKEN, "GUARD_THREADS": "1"}
    with running_service(path, workers=2, device="cpu", env=settings, timeout_s=180) as base:
        run(base, good, concurrency=8, seconds=5)
        before, killer = counted(base), Killer(base, kill_s)
        load = run(base, good, concurrency=32, seconds=minutes * 60, check=check, tick=killer)
        killer.end()
        time.sleep(5)  # the drift test's state is written every second or so
        after = counted(base)
        memory = [*killer.memory, memory_mib(base)]
    latencies, ends = np.array(load.latencies) * 1e3, np.array(load.ends)
    window = min(60.0, minutes * 60 / 3)
    first, last = latencies[ends < window], latencies[ends > minutes * 60 - window]
    return {
        "minutes": minutes,
        "killed": killer.killed,
        "answers": {str(status): n for status, n in load.statuses.items()},
        "wrong": len(wrong),
        "in_flight_lost": load.broken,
        "counted": {key: after[key] - before[key] for key in after},
        "reloads": len(killer.reloads),
        "reloads_that_reached_all": sum(
            isinstance(r, dict) and r["workers"] == r["reloaded"] and not r["errors"] for r in killer.reloads
        ),
        "per_second": round(load.per_second, 1),
        "p99_ms": {"first": float(np.percentile(first, 99)), "last": float(np.percentile(last, 99))},
        "memory_mib": [round(memory[0], 1), round(memory[-1], 1)],
    }


def kill_report(r: dict[str, Any]) -> str:
    return f"""# Serving: workers killed under load

| | |
| --- | --- |
| minutes, connections, workers | {r["minutes"]:g}, 32, 2 |
| workers killed | {r["killed"]} |
| answers | {", ".join(f"{n} x {status}" for status, n in r["answers"].items())}; {r["per_second"]} per second |
| wrong answers | {r["wrong"]} |
| requests lost, all in flight on a killed worker | {r["in_flight_lost"]} |
| images that the metrics and the drift test counted | {r["counted"]["metrics"]:.0f}, {r["counted"]["drift"]:.0f} |
| reloads, and those that reached all workers | {r["reloads"]}, {r["reloads_that_reached_all"]} |
| p99 of the first and the last minute, ms | {r["p99_ms"]["first"]:.0f}, {r["p99_ms"]["last"]:.0f} |
| memory of supervisor and largest worker, early and at the end, MiB | {r["memory_mib"][0]}, {r["memory_mib"][1]} |
"""


def main() -> None:
    """Parse, run, write."""
    from benchmarks.serving import artefact

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-s", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="writes nothing")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        record = kill_campaign(artefact(Path(folder), "wrn16_2", 32), args.minutes, args.kill_s)
    print(kill_report(record))
    if not args.quick:
        write("serving_killed_workers", record, kill_report(record), load)


if __name__ == "__main__":
    main()
