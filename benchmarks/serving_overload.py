"""How soon does a full service say that it is full, and does it still say that it lives?

    python -m benchmarks.serving_overload       # a minute; benchmarks/results/serving_overload.json and .md

A service that takes four images at a time is asked by 64 connections. What it does not take is 503 with Retry-After, at
once: measured is the time to that answer, and to one of /livez meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import post, run
from benchmarks.service_watch import write

LIMIT, CONNECTIONS = 4, 64


class Pulse(threading.Thread):
    """Asks /livez ten times a second; `seconds` are those of the answers."""

    def __init__(self, base: str) -> None:
        super().__init__(daemon=True)
        self._url, self._ended = f"{base}/livez", threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(0.1):
            began = time.perf_counter()
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                assert answer.status == 200
            self.seconds.append(time.perf_counter() - began)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def overload(path: Path, pixels: int, seconds: float) -> dict[str, Any]:
    """Latencies in milliseconds of the refusals, the verdicts and /livez."""
    from benchmarks.serving import encoded
    from serving.runner import running_service

    images = [post("/predict", encoded(pixels, seed), "image/png") for seed in range(8)]
    env = {"GUARD_MAX_CONCURRENCY": str(LIMIT), "GUARD_MAX_BATCH_IMAGES": str(LIMIT), "GUARD_THREADS": "1"}
    without: list[bytes] = []

    def check(_: int, answer: bytes) -> None:
        if answer[9:12] == b"503" and b"retry-after: 1" not in answer.lower():
            without.append(answer)

    with running_service(path, device="cpu", env=env, timeout_s=180) as base:
        run(base, images, concurrency=2, seconds=2)
        pulse = Pulse(base)
        pulse.start()
        load = run(base, images, concurrency=CONNECTIONS, seconds=seconds, check=check)
        pulse.stop()
    ms, codes = np.array(load.latencies) * 1e3, np.array(load.codes)
    return {
        "answers": {str(code): count for code, count in sorted(load.statuses.items())},
        "broken": load.broken,
        "refusals_without_retry_after": len(without),
        "refusal_ms": _quantiles(ms[codes == 503]),
        "verdict_ms": _quantiles(ms[codes == 200]),
        "livez_ms": _quantiles(np.array(pulse.seconds) * 1e3),
    }


def _quantiles(ms: np.ndarray) -> list[float]:
    return [round(float(q), 1) for q in np.percentile(ms, [50, 99])] if len(ms) else []


def report(r: dict[str, Any]) -> str:
    answers = ", ".join(f"{count} x {code}" for code, count in r["answers"].items())
    rows = [f"| {name} | {r[key][0]}, {r[key][1]} |" for name, key in ROWS if r[key]]
    return f"""# Serving: overload

{LIMIT} images are taken at a time, {CONNECTIONS} connections ask. Answers: {answers};
{r["refusals_without_retry_after"]} refusals without Retry-After, {r["broken"]} connections broken.

| ms | median, p99 |
| --- | --- |
{chr(10).join(rows)}
"""


ROWS = (("503 with Retry-After", "refusal_ms"), ("verdict", "verdict_ms"), ("/livez meanwhile", "livez_ms"))


def main() -> None:
    """Measure and write."""
    from benchmarks.serving import artefact

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        record = overload(artefact(Path(folder), "resnet18", 224), 224, 10.0)
    print(report(record))
    write("serving_overload", record, report(record), load)


if __name__ == "__main__":
    main()
