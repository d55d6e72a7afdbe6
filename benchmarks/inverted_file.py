"""The inverted file of `knn` beside exact search: recall, the same flags, and time, on features of real images.

    python -m benchmarks.inverted_file --run runs/plain --root ../../shared/data    # results/inverted_file.json and .md

The bank is the features of the training images under `--passes` random shifts and mirrorings, and points between two of
an image's own at random (4 passes and 16 points of 50,000 images: a million). Queries are test images and OOD images as
they are. Thresholds are taken on half of the test images, flags on the other half and on the OOD sets. Times are of the
two graphs that read features (no network), one thread, in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

import guard
from export.to_onnx import OPSET
from guard.calibration.conformal import calibrate
from guard.data import load
from guard.detector import Guard
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from guard.runtimes.torch_module import TorchModule
from guard.scores import Score, create_score
from train.engine.augment import augment, usual_shift

RESULTS = Path(__file__).parent / "results"
SETS = ("tiny_imagenet", "tiny_imagenet_sharp", "flowers", "mnist", "mnist_m", "textures")
K, ALPHA = 50, 0.05
SIZES = (5_000, 50_000, 200_000, 1_000_000)
BATCHES = (1, 8, 32)


@torch.inference_mode()
def features(g: Guard, images: np.ndarray, passes: int = 0) -> Tensor:
    """(N, D) float32 of uint8 images (n, H, W, channels): as they are, or (passes n, D) augmented."""
    assert isinstance(g.runtime, TorchModule)  # a run folder is
    module = g.runtime.module
    generator, side = torch.Generator().manual_seed(0), images.shape[1]
    found = []
    for one in range(max(1, passes)):
        for part in torch.from_numpy(images).split(500):
            shown = augment(part, generator, pad=usual_shift(side), flip=True) if passes else part
            found.append(module.outputs(shown).features.float())
        print(f"pass {one + 1} of {max(1, passes)}", flush=True)
    return torch.cat(found)


def between(rows: Tensor, passes: int, points: int) -> Tensor:
    """(points n, D) at random between two of an image's `passes` features (passes n, D)."""
    views, generator = rows.view(passes, -1, rows.shape[1]), torch.Generator().manual_seed(1)
    found, count = [], views.shape[1]
    for _ in range(points):
        first, second = (torch.randint(passes, (count,), generator=generator) for _ in range(2))
        share = torch.rand(count, 1, generator=generator)
        found.append(torch.lerp(views[first, torch.arange(count)], views[second, torch.arange(count)], share))
    return torch.cat([rows, *found])


def opened(g: Guard, path: Path) -> np.ndarray:
    """All images of a Parquet file at the guard's size."""
    data = load(path, preprocess=g.manifest.preprocess)
    return np.concatenate([np.array(batch) for batch, _ in data.batches(1000)])


class _OfFeatures(nn.Module):
    """The score alone."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.score(rows, rows[:, :2])
        return found


def session(score: Score, width: int, place: Path) -> ort.InferenceSession:
    """The score's graph on one thread; from a file, for a bank may pass what a protocol buffer holds."""
    with redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            _OfFeatures(score).eval(),
            (torch.zeros(2, width),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=["features"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    program.save(place, external_data=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(place, options, providers=["CPUExecutionProvider"])


def judged(size: int, bank: Tensor, queries: dict[str, np.ndarray], args: argparse.Namespace) -> dict[str, Any]:
    """One record: recall, scores, flags and times of both searches over the bank's first `size` rows of an order."""
    chosen = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:size]]
    record: dict[str, Any] = {"rows": len(chosen), "width": bank.shape[1]}
    sessions, scores = {}, {}
    for search in ("exact", "inverted_file"):
        score = create_score("knn", k=K, max_bank=None, search=search, probes=args.probes)
        began = time.perf_counter()
        score.fit(chosen, chosen[:, :2], torch.zeros(len(chosen), dtype=torch.int64))
        record[f"fit_s_{search}"] = round(time.perf_counter() - began, 1)
        sessions[search] = session(score, bank.shape[1], args.work / f"{search}.onnx")
        scores[search] = {
            name: np.concatenate([sessions[search].run(None, {"features": part})[0] for part in split(rows)])
            for name, rows in queries.items()
        }
    record |= agreement(scores)
    for batch in BATCHES:
        rows = queries["test"][:batch]
        calls: dict[str, Callable[[], Any]] = {}
        for name, one in (*sessions.items(), ("A/A", sessions["exact"])):
            calls[name] = lambda one=one, rows=rows: one.run(None, {"features": rows})  # type: ignore[misc]
        timings = interleave(calls, rounds=args.rounds, round_s=0.1, clock=time.process_time)
        record[f"batch_{batch}"] = {name: asdict(timing) for name, timing in timings.items()}
    return record


def split(rows: np.ndarray) -> list[np.ndarray]:
    """In batches."""
    return [rows[at : at + 32] for at in range(0, len(rows), 32)]


def agreement(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Of the flags that both searches give, each at the threshold of its own half of the test images."""
    flags = {}
    for search, found in scores.items():
        held, new = found["test"][::2], found["test"][1::2]
        threshold = calibrate(held, alpha=ALPHA).threshold
        flags[search] = np.concatenate([new > threshold, *(found[name] > threshold for name in SETS)])
    exact, other = (np.concatenate(list(scores[search].values())) for search in ("exact", "inverted_file"))
    return {
        "images": len(flags["exact"]),
        "flag_agreement": float((flags["exact"] == flags["inverted_file"]).mean()),
        "equal_scores": float(np.isclose(exact, other, rtol=1e-4).mean()),
        "largest_relative_difference": float((np.abs(exact - other) / exact).max()),
    }


def table(records: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| rows | same flags | same scores | largest relative difference of a score | fit, s | "
        + " | ".join(f"exact, ms ({b}) | inverted file / exact ({b})" for b in BATCHES)
        + " |",
        "|" + " --- |" * (5 + 2 * len(BATCHES)),
    ]
    for r in records:
        cells = [
            f"{r['rows']:,}",
            f"{100 * r['flag_agreement']:.2f} %",
            f"{100 * r['equal_scores']:.2f} %",
            f"{r['largest_relative_difference']:.3f}",
            f"{r['fit_s_inverted_file']:.0f}",
        ]
        for batch in BATCHES:
            found = {name: Timing(**value) for name, value in r[f"batch_{batch}"].items()}
            cells += [f"{1e3 * found['exact'].seconds:.1f}", f"{found['inverted_file'].ratio:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    records = result["records"]
    return f"""# The inverted file of kNN beside exact search

Features of {records[0]["width"]} numbers, k = {K}, {result["probes"]} lists read.
Flags of {records[0]["images"]:,} images: half of the test images and the OOD sets; thresholds at {100 * ALPHA:g} % on
the other half, each search its own. Times per batch of 1, 8 and 32 are of the score's graph alone, on one thread, in
turns ({result["rounds"]} rounds).

{table(records)}

{describe(result["machine"])}
"""


def main() -> None:
    """Parse, embed, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder whose network embeds")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder with cifar10/ and ood/")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path("runs/inverted_file"), help="for embeddings and graphs")
    parser.add_argument("--out", type=Path, default=RESULTS / "inverted_file.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    g, kept = guard.load(args.run), args.work / "bank.npy"
    if not kept.exists():
        np.save(kept, features(g, opened(g, args.root / "cifar10/train.parquet"), args.passes).numpy())
    bank = between(torch.from_numpy(np.load(kept)), args.passes, args.points)
    places = {"test": args.root / "cifar10/test.parquet"} | {name: args.root / f"ood/{name}.parquet" for name in SETS}
    queries = {name: features(g, opened(g, path)).numpy() for name, path in places.items()}
    result: dict[str, Any] = {
        "benchmark": "inverted_file",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "probes": args.probes,
        "rounds": args.rounds,
        "records": [],
    }
    for size in args.sizes:
        result["records"].append(judged(size, bank, queries, args))
        print(table(result["records"]), flush=True)
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))


if __name__ == "__main__":
    main()
