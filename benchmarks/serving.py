"""What the service costs: against a bare uvicorn application and BentoML's default form, same graph and decoding.

    python -m benchmarks.serving            # about 15 minutes on 2 cores; benchmarks/results/serving.json and .md
    python -m benchmarks.serving --quick    # two minutes, to the terminal only

guard      `bentoml serve serving:svc`, with its limits, checks, metrics and batching
bare       uvicorn and an ONNX Runtime session (`bare_service.py`), nothing else
bentoml    an endpoint with an image argument (`default_service.py`), forms only

All run at once and are loaded in turn, in random order, for a second or two each round; a ratio is that of the same
round, and reported is the median over the rounds. The client is one thread on the same machine (`load.py`).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.load import Load, form, kind_of, post, run
from guard.latency.machine import describe, machine

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
MODELS = {"wrn16_2": 32, "resnet18": 224}  # backbone -> pixels
FORMS = ("raw", "form", "json", "tensor")
BATCH = 8  # images of a tensor request
GOALS = {32: 0.85, 224: 0.95}  # pixels -> share of the bare application's requests per second


def encoded(pixels: int, seed: int) -> bytes:
    """A smooth picture with some noise: a PNG of the model's size, or a JPEG of a photo's shape that is resized."""
    rng = np.random.default_rng(seed)
    height, width = (pixels, pixels) if pixels < 64 else (240, 320)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.clip(np.asarray(small, np.int16) + rng.integers(-8, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "PNG" if pixels < 64 else "JPEG")
    return file.getvalue()


def requests(contender: str, kind: str, pixels: int) -> list[bytes]:
    """Eight requests of one form, as this contender takes it."""
    images = [encoded(pixels, seed) for seed in range(8)]
    if kind == "raw":
        return [post("/predict", image, f"image/{kind_of(image)}") for image in images]
    if kind == "form":
        path = "/form" if contender.startswith("bare") else "/predict"
        return [post(path, *form([image], "image")) for image in images]
    if kind == "json":
        texts = [base64.b64encode(image).decode() for image in images]
        if contender.startswith("bare"):
            return [post("/json", json.dumps({"image": text}).encode(), "application/json") for text in texts]
        return [post("/v2/models/guard/infer", json_infer(text), "application/json") for text in texts]
    rng = np.random.default_rng(0)
    tensors = rng.integers(0, 256, (8, BATCH, pixels, pixels, 3), dtype=np.uint8)
    if contender.startswith("bare"):
        return [post("/tensor", tensor.tobytes(), "application/octet-stream") for tensor in tensors]
    return [binary_infer(tensor) for tensor in tensors]


def json_infer(text: str) -> bytes:
    """The body of the Open Inference Protocol's request with an image file in base64."""
    return json.dumps({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [text]}]}).encode()


def binary_infer(tensor: np.ndarray) -> bytes:
    """The Open Inference Protocol's request with a binary tensor."""
    description = {"name": "images", "datatype": "UINT8", "shape": list(tensor.shape)}
    head = json.dumps({"inputs": [{**description, "parameters": {"binary_data_size": tensor.nbytes}}]}).encode()
    body = head + tensor.tobytes()
    return post(
        "/v2/models/guard/infer",
        body,
        "application/octet-stream",
        Inference_Header_Content_Length=str(len(head)),
    )


# ------------------------------------------------------------------------------------------------------------ services


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int, **environment: str) -> Iterator[str]:
    """A server of ours for the length of the block, once something listens there."""
    env = {**os.environ, "BENTOML_DO_NOT_TRACK": "true", **environment}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} does not listen on {port}") from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def services(stack: ExitStack, artefact: Path, pixels: int, workers: int, threads: int) -> dict[str, str]:
    """Every contender's address."""
    from serving.runner import running_service

    env = {"GUARD_THREADS": str(threads)}
    guard = stack.enter_context(running_service(artefact, workers=workers, device="cpu", env=env, timeout_s=180))
    settings = [str(artefact), pixels, threads, workers]
    port = free_port()
    bare = [sys.executable, "-m", "benchmarks.bare_service", str(artefact), str(pixels), str(threads), str(port)]
    found = {"bare": stack.enter_context(started([*bare, str(workers)], port)), "guard": guard}
    port, home = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
    default = [sys.executable, "-m", "bentoml", "serve", "benchmarks.default_service:Default", "--port", str(port)]
    found["bentoml"] = stack.enter_context(
        started(default, port, DEFAULT_SERVICE=json.dumps(settings), BENTOML_HOME=home)
    )
    return found


def artefact(folder: Path, backbone: str, pixels: int) -> Path:
    """A guard with that backbone, untrained (time does not depend on the weights), calibrated on random scores."""
    from benchmarks.latency_graphs import guard_graph
    from guard.artefact.files import write_onnx
    from guard.calibration.conformal import calibrate
    from guard.manifest import Manifest, Normalisation, Preprocess

    path = folder / f"{backbone}.onnx"
    manifest = Manifest(
        name=backbone,
        class_names=tuple(str(c) for c in range(10)),
        preprocess=Preprocess(height=pixels, width=pixels),
        normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        method="plain",
        backbone=backbone,
        head="linear",
        score="energy",
        calibration=calibrate(np.random.default_rng(0).normal(size=2000).astype(np.float32), alpha=0.05),
    )
    write_onnx(path, guard_graph(backbone, "energy", pixels), manifest)
    return path


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(addresses: dict[str, str], kind: str, pixels: int, concurrency: int, args: Any) -> dict[str, Any]:
    """Requests per second and latencies of each contender, in turn."""
    contenders = [name for name in addresses if name != "bentoml" or kind == "form"]
    loads: dict[str, list[Load]] = {name: [] for name in contenders}
    sent = {name: requests(name, kind, pixels) for name in contenders}
    for name in contenders:  # warm
        run(addresses[name], sent[name], concurrency=concurrency, seconds=0.3)
    rng = random.Random(0)
    for _ in range(args.rounds):
        for name in rng.sample(contenders, len(contenders)):
            load = run(addresses[name], sent[name], concurrency=concurrency, seconds=args.seconds)
            if set(load.statuses) != {200} or load.broken:
                raise RuntimeError(f"{name} answered {dict(load.statuses)}, {load.broken} broken")
            loads[name].append(load)
    record: dict[str, Any] = {"form": kind, "concurrency": concurrency}
    for name in contenders:
        pairs = list(zip(loads[name], loads["bare"], strict=True))
        record[name] = {
            "per_second": statistics.median(load.per_second for load in loads[name]),
            "ratio": statistics.median(load.per_second / bare.per_second for load, bare in pairs),
            "p50_ms": statistics.median(load.percentile_ms(50) for load in loads[name]),
            "p99_ms": statistics.median(load.percentile_ms(99) for load in loads[name]),
            "p99_ratio": statistics.median(load.percentile_ms(99) / bare.percentile_ms(99) for load, bare in pairs),
        }
    return record


def cells(args: Any, pixels: int) -> Iterator[tuple[str, int]]:
    """(form, concurrency); a large image takes so long that more than 32 connections and 8 images each tell no more."""
    yield from (("raw", concurrency) for concurrency in args.concurrency if pixels < 64 or concurrency <= 32)
    yield from ((kind, 32) for kind in ("form", "json") if kind in args.forms)
    if "tensor" in args.forms and pixels < 64:
        yield "tensor", 8  # of eight images each


def measured(args: Any) -> Iterator[dict[str, Any]]:
    """One record per cell, as it is there."""
    for backbone in args.models:
        pixels = MODELS[backbone]
        with tempfile.TemporaryDirectory() as folder:
            path = artefact(Path(folder), backbone, pixels)
            for workers in args.workers:
                with ExitStack() as stack:
                    addresses = services(stack, path, pixels, workers, max(1, 2 // workers))
                    for kind, concurrency in cells(args, pixels):
                        record = {"model": backbone, "pixels": pixels, "workers": workers}
                        before = round(os.getloadavg()[0], 2)
                        found = measure(addresses, kind, pixels, concurrency, args)
                        yield {**record, **found, "load": [before, round(os.getloadavg()[0], 2)]}


# -------------------------------------------------------------------------------------------------------------- report


def row(record: dict[str, Any]) -> str:
    """A line of the table."""
    guard, bare, default = record["guard"], record["bare"], record.get("bentoml")
    cells = [f"{record['model']}, {record['pixels']}", record["workers"], record["form"], record["concurrency"]]
    cells += [f"{bare['per_second']:.0f}", f"{guard['per_second']:.0f}", f"{guard['ratio']:.2f}"]
    cells += [f"{bare['p99_ms']:.1f}", f"{guard['p99_ms']:.1f}", f"{guard['p99_ratio']:.2f}"]
    cells += [f"{default['per_second']:.0f}, {default['p99_ms']:.0f}" if default else ""]
    return "| " + " | ".join(map(str, cells)) + " |"


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    head = ("model", "workers", "form", "connections", "bare /s", "guard /s", "ratio", "bare p99 ms", "guard p99 ms")
    head += ("p99 ratio", "BentoML /s, p99 ms")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    settings, facts = result["settings"], result["machine"]
    loads = [load for record in result["records"] for load in record["load"]]
    low, high = min(loads), max(loads)
    return f"""# Serving: the guard's service / a bare uvicorn application, same graph, decoding and machine

Medians of {settings["rounds"]} rounds of {settings["seconds"]} s.
`benchmarks/serving.py` says what is compared. Goals: a ratio of
at least 0.85 at 32 pixels and 0.95 at 224; at 32 connections, p99 at most 1.5 of the bare one's and 0.2 of BentoML's.
`json` holds an image file in base64, `tensor` is a request of {BATCH} images as raw pixels; both are requests of the
Open Inference Protocol for the guard, which answers all probabilities.

{describe(facts)}; load while measuring {low:.0f} to {high:.0f}, {facts["cores"]} cores

{chr(10).join(lines + [row(record) for record in result["records"]])}
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of load per contender and round")
    parser.add_argument("--quick", action="store_true", help="the small model, one worker; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    args = parser.parse_args()
    if args.quick:
        args.models, args.workers = args.models[:1], args.workers[:1]
    result: dict[str, Any] = {
        "benchmark": "serving",
        "machine": machine(),
        "settings": {"rounds": args.rounds, "seconds": args.seconds, "batch": BATCH},
        "records": kept(args),
    }
    for record in measured(args):
        print(row(record), flush=True)
        result["records"].append(record)
        result["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        if not args.quick:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(report(result))


def kept(args: Any) -> list[dict[str, Any]]:
    """What an earlier run measured of other models and numbers of workers."""
    if args.quick or not args.out.exists():
        return []
    records: list[dict[str, Any]] = json.loads(args.out.read_text())["records"]
    return [r for r in records if r["model"] not in args.models or r["workers"] not in args.workers]


if __name__ == "__main__":
    main()
