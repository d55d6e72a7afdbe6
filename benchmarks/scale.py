"""What grows with images, classes, feature width and bank: time and peak memory, each alone, the rest held small.

    python -m benchmarks.scale                       # some 30 minutes on one core; results/scale.json, .md and .png
    python -m benchmarks.scale --axes classes,width

Everything is synthetic: random images of 16 x 16 pixels, random features. A network of one convolution stands for the
backbone, so that what is measured is what we add. Every point runs in a process of its own, on one thread, and its
seconds are those of the processor; points that the .json has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_above
from guard.latency.machine import describe, machine

RESULTS = Path(__file__).parent / "results"
AXES: dict[str, tuple[int, ...]] = {
    "images": (1_000, 10_000, 100_000, 1_000_000),
    "classes": (10, 100, 1_000, 10_000),
    "width": (64, 256, 1_024, 4_096),
    "bank": (1_000, 10_000, 100_000, 1_000_000),
}
WHAT = {
    "images": ("fit mahalanobis", "fit knn", "train an epoch", "scan"),
    "classes": (
        "training step",
        "fit energy",
        "fit mahalanobis",
        "score energy",
        "score mahalanobis",
        "export",
        "load",
    ),
    "width": ("fit mahalanobis", "fit vim", "score mahalanobis", "score vim", "export", "load"),
    "bank": ("score exact", "score inverted_file", "fit inverted_file", "load exact", "load inverted_file"),
}
MOST = {"train an epoch": 100_000, "scan": 100_000}  # images: beyond, time is a multiple of this
LEAST = {"seconds": 0.0, "peak_mib": 1.0}  # what is less is drawn here
SIDE, BATCH, FITTED = 16, 32, 20_000  # pixels; images per call; features that a score is fitted on
WIDTH, CLASSES = 128, 10
PROBES = 16  # a fifth of the default: what growth looks like, where `inverted_file` has the price of right flags


def network(width: int, classes: int) -> Any:
    """A classifier with features of that width, in eval mode."""
    import torch
    from torch import nn

    from guard.graph.outputs import Backbone, Classifier
    from guard.heads import create_head

    class Stem(Backbone):
        num_features = width

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 4, 4)

        def forward_map(self, x: Any) -> Any:
            return self.conv(x).relu()

        def pool(self, feature_map: Any) -> Any:
            return feature_map.mean((2, 3))

    torch.manual_seed(0)
    return Classifier(Stem(), create_head("linear", width, classes)).eval()


def fitted(name: str, width: int, classes: int, rows: int = FITTED, **options: Any) -> Any:
    """A score fitted on random features in batches, and its classifier."""
    import torch

    from guard.scores import create_score

    classifier, score = network(width, classes), create_score(name, **options)
    generator = torch.Generator().manual_seed(0)
    if score.needs_fit:
        score.begin(width, classes, classifier.last_layer())
        for start in range(0, rows, 2_000):
            features = torch.randn(min(2_000, rows - start), width, generator=generator).abs()
            with torch.no_grad():
                logits = classifier.head(features)
            score.update(features, logits, torch.arange(start, start + len(features)) % classes)
        score.finish()
    return score, classifier


def graph(score: Any, classifier: Any, classes: int) -> bytes:
    """The exported file's bytes."""
    from benchmarks.latency_graphs import NORMALISATION
    from export.to_onnx import onnx_bytes
    from guard.graph.module import GuardModule
    from guard.manifest import Manifest, Preprocess

    manifest = Manifest(
        class_names=tuple(f"class {c}" for c in range(classes)),
        preprocess=Preprocess(height=SIDE, width=SIDE),
        normalisation=NORMALISATION,
        method="plain",
        backbone="stem",
        head="linear",
        score=score.name,
    )
    return onnx_bytes(GuardModule(classifier, score, NORMALISATION).eval(), manifest)


def measured(axis: str, size: int, what: str) -> dict[str, Any]:
    """Seconds and peak MiB of one point, in this process."""
    import torch

    torch.set_num_threads(1)
    width = size if axis == "width" else WIDTH
    classes = size if axis == "classes" else CLASSES
    act, name = what.split(" ", 1) if " " in what else (what, "energy")
    if what == "train an epoch":
        return timed(lambda: train(size))
    if what == "training step":
        return training_step(classes)
    if what == "scan":
        return scan(size)
    if axis == "bank":
        return of_bank(size, act, name)
    if act == "fit":
        rows = size if axis == "images" else max(FITTED, 2 * classes)
        return timed(lambda: fitted(name, width, classes, rows))
    return of_graph(act, "mahalanobis" if act in ("export", "load") else name, width, classes)


def timed(call: Callable[[], object]) -> dict[str, Any]:
    """Of one call: CPU time, of processes that it starts too."""
    took: list[float] = []

    def run() -> None:
        began = sum(os.times()[:4])
        call()
        took.append(sum(os.times()[:4]) - began)

    peak = peak_above(run)
    return {"seconds": took[0], "peak_mib": peak}


def of_graph(act: str, name: str, width: int, classes: int) -> dict[str, Any]:
    """Export, load, or one image in a batch of `BATCH`."""
    score, classifier = fitted(name, width, classes, max(FITTED, 2 * classes))
    if act == "export":
        return timed(lambda: graph(score, classifier, classes))
    return of_session(act, graph(score, classifier, classes))


def of_session(act: str, data: bytes) -> dict[str, Any]:
    """Load, or one image in a batch of `BATCH`; with the file's size."""
    from guard.runtimes.onnx_session import OnnxSession

    size = {"mib": len(data) / 2**20}
    if act == "load":
        return timed(lambda: OnnxSession(data, device="cpu", threads=1)) | size
    session = OnnxSession(data, device="cpu", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    session.run(images)
    rounds = []
    for _ in range(9):
        began = time.process_time()
        session.run(images)
        rounds.append((time.process_time() - began) / BATCH)
    return {"seconds": float(np.median(rounds)), "peak_mib": peak_above(lambda: session.run(images))} | size


def of_bank(size: int, act: str, search: str) -> dict[str, Any]:
    """kNN over a bank of that size."""
    options = {"max_bank": None, "search": search, "k": 50, "probes": PROBES}
    if act == "fit":
        return timed(lambda: fitted("knn", WIDTH, CLASSES, size, **options))
    score, classifier = fitted("knn", WIDTH, CLASSES, size, **options)
    return of_session(act, graph(score, classifier, CLASSES))


def training_step(classes: int) -> dict[str, Any]:
    """Forward, backward and update of a batch of 128, the median of 20."""
    import torch

    classifier = network(WIDTH, classes).train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(128, 3, SIDE, SIDE), torch.randint(0, classes, (128,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(classifier(images).logits, labels).backward()
        optimizer.step()

    step()
    rounds = []
    for _ in range(20):
        began = time.process_time()
        step()
        rounds.append(time.process_time() - began)
    return {"seconds": float(np.median(rounds)), "peak_mib": peak_above(step)}


def images_and_labels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, brighter from class to class."""
    labels = np.arange(count) % CLASSES
    images = np.random.default_rng(0).integers(0, 64, (count, SIDE, SIDE, 3), dtype=np.uint8)
    images += (12 * labels).astype(np.uint8)[:, None, None, None]
    return images, labels


def train(count: int) -> None:
    """`guard.train` for one epoch, fit and calibration included."""
    import guard

    guard.train(images_and_labels(count), backbone="wrn10_2", epochs=1, score="energy", threads=1)


def scan(count: int) -> dict[str, Any]:
    """`guard.scan` of a Parquet file of PNG images by one process."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    import guard

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        g = guard.train(images_and_labels(2_000), backbone="wrn10_2", epochs=1, score="energy", threads=1)
        path = guard.export(g, place / "guard.onnx")
        coded = []
        for image in images_and_labels(1_000)[0]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            coded.append({"bytes": buffer.getvalue(), "path": None})
        with pq.ParquetWriter(place / "images.parquet", pa.table({"image": coded}).schema) as writer:
            for _ in range(count // len(coded)):
                writer.write_table(pa.table({"image": coded}))
        return timed(lambda: guard.scan(path, place / "images.parquet", out=place / "scanned", workers=1))


def table(rows: list[dict[str, Any]], axis: str) -> str:
    """Markdown of one axis."""
    sizes = AXES[axis]
    lines = [f"| | {' | '.join(f'{size:,}' for size in sizes)} |", "|" + " --- |" * (len(sizes) + 1)]
    for what in WHAT[axis]:
        cells = []
        for size in sizes:
            found = [r for r in rows if (r["axis"], r["size"], r["what"]) == (axis, size, what)]
            cells.append(shown(found[0]) if found else "")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(row: dict[str, Any]) -> str:
    """Time, peak memory, and the file's size where there is one."""
    seconds = row["seconds"]
    time_ = f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return f"{time_}, {row['peak_mib']:.0f} MiB" + (f", file {row['mib']:.1f} MiB" if "mib" in row else "")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and peak memory by each axis, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(AXES), figsize=(18, 8), layout="constrained")
    for column, axis in enumerate(AXES):
        for line, (key, label) in enumerate((("seconds", "seconds"), ("peak_mib", "peak memory, MiB"))):
            place = axes[line][column]
            for what in WHAT[axis]:
                here = [r for r in rows if (r["axis"], r["what"]) == (axis, what) and r["seconds"]]
                points = sorted((r["size"], max(r[key], LEAST[key])) for r in here)
                if points:
                    place.plot(*zip(*points, strict=True), marker="o", markersize=4, label=what)
            place.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
            place.grid(alpha=0.3)
            if line == 0:
                place.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    parts = [f"## {axis.capitalize()}\n\n{table(result['rows'], axis)}" for axis in AXES]
    body = "\n\n".join(parts)
    return f"""# What grows with images, classes, width and bank

CPU time on one thread; random data; a network of one convolution ({WIDTH} features, {CLASSES} classes unless said).
Scores are per image, in batches of {BATCH}. Peak memory is above what was held.
The inverted file reads {PROBES} lists ([inverted_file.md](inverted_file.md) has the default).
`benchmarks/scale.py` says more.

![curves](scale.png)

{body}

{describe(result["machine"])}
"""


def main() -> None:
    """Measure what is missing, each point in a process; write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--largest", type=int, default=10**9, help="no point beyond this size")
    parser.add_argument("--one", nargs=3, metavar=("AXIS", "SIZE", "WHAT"), help="measure a point here and print it")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], int(args.one[1]), args.one[2])))
        return
    kept = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    result = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "rows": kept["rows"]}
    done = {(r["axis"], r["size"], r["what"]) for r in result["rows"]}
    for axis in args.axes.split(","):
        for size in AXES[axis]:
            for what in WHAT[axis]:
                if size > min(args.largest, MOST.get(what, size)) or (axis, size, what) in done:
                    continue
                command = [sys.executable, "-m", "benchmarks.scale", "--one", axis, str(size), what]
                answer = subprocess.run(command, capture_output=True, text=True, check=False)
                if answer.returncode:
                    print(f"{axis} {size} {what}: {answer.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                found = json.loads(answer.stdout.strip().splitlines()[-1])
                result["rows"].append({"axis": axis, "size": size, "what": what, **found})
                print(f"{axis} {size:,} {what}: {shown(result['rows'][-1])}", flush=True)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
                args.out.with_suffix(".md").write_text(report(result))
    plot(result["rows"], args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
