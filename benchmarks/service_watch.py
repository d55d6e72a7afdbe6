"""What the campaigns against a running service share: its processes, its memory, good requests, the result's files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import post
from guard.latency.machine import describe, machine
from guard.verdict import Verdict

RESULTS = Path(__file__).parent / "results"
MIB = 1024 * 1024


def supervisor(base: str) -> psutil.Process:
    """The service's first process."""
    (found,) = [p for p in psutil.Process().children() if base.rpartition(":")[2] in p.cmdline()]
    return found


def workers(base: str) -> list[psutil.Process]:
    """Its living workers."""
    found = []
    for process in supervisor(base).children():
        with suppress(psutil.NoSuchProcess):  # also a zombie
            if "_bentoml_impl.worker.service" in process.cmdline():
                found.append(process)
    return found


def memory_mib(base: str) -> float:
    """Resident memory of the supervisor and the largest worker."""
    return float(supervisor(base).memory_info().rss + max(p.memory_info().rss for p in workers(base))) / MIB


def good_requests(path: Path) -> tuple[list[bytes], list[Callable[[bytes], bool]]]:
    """Requests, and for each whether an answer is right: label, class, flag and threshold are those that the file gives
    in this process, and score, probability and p-value within rounding, which goes with the batch."""
    from benchmarks.serving import encoded
    from guard.artefact.load import load

    g = load(path, device="cpu", threads=1, tuned_for="throughput")
    images = [encoded(32, seed) for seed in range(16)]
    verdicts = g.predict(images, batch_size=1)
    return [post("/predict", image, "image/png") for image in images], [_rightly(verdict) for verdict in verdicts]


def _rightly(verdict: Verdict) -> Callable[[bytes], bool]:
    exact = {name: getattr(verdict, name) for name in ("label", "class_name", "is_ood", "threshold")}
    near = {name: getattr(verdict, name) for name in ("ood_score", "probability", "p_value")}

    def right(answer: bytes) -> bool:
        try:
            told = json.loads(answer.partition(b"\r\n\r\n")[2])
            return all(told[name] == value for name, value in exact.items()) and all(
                abs(told[name] - value) <= 2e-3 * max(1.0, abs(value)) for name, value in near.items()
            )
        except (ValueError, KeyError, TypeError):
            return False

    return right


def write(name: str, record: dict[str, Any], text: str, load_before: float) -> None:
    """results/<name>.json and .md."""
    facts = machine()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"benchmark": name, "created": created, "machine": facts, "load_before": load_before, **record}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    load = f"{describe(facts)}; load {load_before:.2f} at the start, {os.getloadavg()[0]:.2f} at the end"
    (RESULTS / f"{name}.md").write_text(f"{text}\n{load}\n")
