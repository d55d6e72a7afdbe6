"""Images per second of `guard.scan` beside ONNX Runtime alone, on the same cores: local processes, and a local Ray.

    python -m benchmarks.scan --data ../shared/data/cifar10/train.parquet    # some 15 minutes on two cores
    python -m benchmarks.scan --data ... --ways local --rounds 1

ceiling    as many processes as cores, each a session of one thread that runs over its share of images which are decoded
           already, in batches of the scan's size; what loads the session and the images is not counted
local      the whole of `guard.scan`: reading, decoding, scoring, files, report
ray        the same on a Ray of this machine that runs already, with as many CPUs as cores; its start is not counted

Wall time, on a machine that does nothing else. Ways take turns; shares are of the ceiling's rate of the same round. The
network is a WRN-16-2 that trained for a moment, for time does not depend on its weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

import guard
from guard.artefact.files import graph_bytes, read_onnx
from guard.cores import available_cores
from guard.data import load
from guard.latency.machine import describe, machine
from guard.scanning.cluster import connected

RESULTS = Path(__file__).parent / "results"
BATCH = 64
GOAL = 0.85


def exported(data: Path, folder: Path) -> Path:
    """A guard's file."""
    images = load(data)
    rows = np.arange(0, len(images), max(1, len(images) // 2000))
    assert images.labels is not None  # a labelled file is asked for
    some = np.ascontiguousarray(images.take(rows)), np.array(images.class_names)[images.labels[rows]]
    g = guard.train(some, backbone="wrn16_2", epochs=1, score="energy", device="cpu")
    return guard.export(g, folder / "guard.onnx")


def ceiling(path: Path, data: Path, folder: Path) -> float:
    """Seconds for all images, decoded, by one process per core."""
    cores, images = available_cores(), load(data)
    kept = folder / "decoded.npy"
    if not kept.exists():
        np.save(kept, np.concatenate([np.array(batch) for batch, _ in images.batches(1000)]))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    workers = [context.Process(target=_run, args=(path, kept, one, cores, barrier)) for one in range(cores)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"a process of the ceiling ended with {[worker.exitcode for worker in workers]}")
    return time.perf_counter() - began


def _run(path: Path, kept: Path, one: int, of: int, barrier: Barrier) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph_bytes(read_onnx(path)[0]), options, providers=["CPUExecutionProvider"])
    images = np.array_split(np.load(kept), of)[one]
    session.run(None, {"images": images[:BATCH]})
    barrier.wait()
    for start in range(0, len(images), BATCH):
        session.run(None, {"images": images[start : start + BATCH]})


def scanned(path: Path, data: Path, folder: Path, ray: str | None) -> float:
    """Seconds of a whole scan."""
    out = Path(tempfile.mkdtemp(dir=folder))
    with connected(ray, None) if ray else nullcontext():
        began = time.perf_counter()
        guard.scan(path, data, out=out / "scan", labelled=True, batch_size=BATCH, ray=ray)
        return time.perf_counter() - began


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    images, spent = result["images"], result["seconds"]
    lines = ["| | images per second | share of the ceiling |", "|---|---|---|"]
    for way, times in spent.items():
        shares = [top / mine for mine, top in zip(times, spent["ceiling"], strict=True)]
        lines.append(f"| {way} | {images / statistics.median(times):,.0f} | {statistics.median(shares):.2f} |")
    return f"""# guard scan beside ONNX Runtime alone

{images:,} labelled images of 32 x 32 pixels in Parquet, {available_cores()} processes of one thread; medians of
{len(spent["ceiling"])} rounds. Goal: {GOAL} of the ceiling. `benchmarks/scan.py` says what is compared.

{chr(10).join(lines)}

{describe(result["machine"])}
"""


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled images in Parquet")
    parser.add_argument("--ways", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "scan.json")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    facts, images = machine(), len(load(args.data))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = exported(args.data, folder)
        ways: dict[str, Callable[[], float]] = {"ceiling": lambda: ceiling(path, args.data, folder)}
        for way in args.ways:
            ray = "local" if way == "ray" else None
            ways[way] = lambda ray=ray: scanned(path, args.data, folder, ray)  # type: ignore[misc]
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, call in ways.items():
                spent[way].append(call())
                print(f"{way}: {images / spent[way][-1]:,.0f} images/s", flush=True)
    result = {
        "benchmark": "scan",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "images": images,
        "seconds": spent,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(report(result))


if __name__ == "__main__":
    main()
