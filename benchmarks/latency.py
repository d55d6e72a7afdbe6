"""What a guard costs at run time: its graph against the bare backbone's own, and against torch, on the CPU.

    python -m benchmarks.latency            # about 25 minutes on 2 cores; benchmarks/results/latency.json and .md
    python -m benchmarks.latency --quick    # half a minute, to the terminal only

bare    the backbone with a linear head as torch.onnx writes it: normalised float32 (N, 3, H, W) -> logits
guard   what guard.export writes: uint8 (N, H, W, 3) -> label, probabilities, ood_score, is_ood; normalisation, softmax,
        argmax, score and comparison are all inside
A/A     a second session of the bare graph: how far from 1 a ratio strays by chance
int8    the guard's graph quantised; over the bare backbone quantised alike
torch   the very module that is exported, in eager mode and under torch.compile, one thread

`latency_graphs` makes them. `precision` has the precisions of trained networks.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.latency_graphs import BANK, CLASSES, bare_graph, guard_graph, guard_module, inputs, session_call
from export.bare import bare_classifier
from export.precision.integers import Quantiser
from export.to_onnx import OPSET
from guard.heads import list_heads
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from guard.scores import get_score, list_scores

RESULTS = Path(__file__).parent / "results"
KINDS: dict[str, dict[str, Any]] = {  # the three kinds of head of the product; these have the goals below
    "energy": {"score": "energy"},
    "rejection": {"score": "rejection"},
    "cosine": {"score": "cosine", "head": "cosine"},
}
BACKBONES = {"wrn16_2": 32, "resnet18_small": 32, "vit_tiny_patch16_224": 64}  # name -> pixels
GOAL = {1: 1.05, 8: 1.02}  # batch size, and from there on
GOAL_BANK, GOAL_TORCH = 1.10, 0.60  # a bank of LARGE from batch 8; of torch's time in eager mode at batch 1
LARGE = 50_000
BANK_BACKBONE = "resnet18_small"  # features of 512 numbers
PASSES = {"input gradient", "turned images", "layer maps"}  # scores that need these run more than the network once
OWN_HEAD = {"cosine": "cosine", "reject_class": "c_plus_1"}
RECOMMENDED = {"score": "energy+fdbd+multilayer_mahalanobis"}  # what method="recommended" scores with

Calls = dict[str, Callable[[], Any]]


def all_scores() -> dict[str, dict[str, Any]]:
    """Every registered score that reads one pass through the network, but for those of `KINDS`."""
    single = [name for name in list_scores() if not PASSES & set(get_score(name).needs) and name not in KINDS]
    found = {name: {"score": name, "head": OWN_HEAD.get(name, "linear")} for name in single}
    return found | {"recommended": RECOMMENDED}


def all_heads() -> dict[str, dict[str, Any]]:
    """Every registered head, with the score msp."""
    return {f"head {name}": {"score": "msp", "head": name} for name in list_heads()}


def banks() -> dict[str, dict[str, Any]]:
    """kNN with the large bank, searched either way."""
    return {
        f"knn, {search}": {"score": "knn", "max_bank": LARGE, "search": search} for search in ("exact", "inverted_file")
    }


def timed(calls: Calls, args: argparse.Namespace) -> dict[str, Any]:
    """Timings in turns, as the record has them."""
    timings = interleave(calls, rounds=args.rounds, round_s=args.round_s)
    return {name: asdict(timing) for name, timing in timings.items()}


def of_graphs(backbone: str, wanted: dict[str, dict[str, Any]], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record per thread count and batch size: guard graphs beside the bare one."""
    pixels = BACKBONES.get(backbone, 32)
    bare = bare_graph(backbone, pixels)
    graphs = {name: guard_graph(backbone, pixels=pixels, **options) for name, options in wanted.items()}
    for threads in args.threads:
        for batch in args.batches:
            images, normalised = inputs(batch, pixels)
            calls = {name: session_call(bare, normalised, threads) for name in ("bare", "A/A")}
            calls |= {name: session_call(graph, images, threads) for name, graph in graphs.items()}
            yield described(backbone, pixels, threads, batch, timed(calls, args))


def of_int8(backbone: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Guards in int8 beside their own classifier in int8, cut out of the first."""
    pixels = BACKBONES.get(backbone, 32)
    some, _ = inputs(64, pixels)
    graphs = {
        name: Quantiser(guard_graph(backbone, pixels=pixels, **options), [some], "cpu").quantised()
        for name, options in KINDS.items()
    }
    bare, _, dtype = bare_classifier(graphs["energy"])
    for batch in args.batches:
        images, normalised = inputs(batch, pixels)
        calls = {name: session_call(bare, normalised.astype(dtype), 1) for name in ("bare", "A/A")}
        calls |= {name: session_call(graph, images, 1) for name, graph in graphs.items()}
        yield described(backbone, pixels, 1, batch, timed(calls, args))


def of_torch(backbone: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The exported guard beside torch in eager mode (the first, which ratios are over) and compiled."""
    pixels = BACKBONES.get(backbone, 32)
    module, graph = guard_module(backbone, "energy", pixels), guard_graph(backbone, "energy", pixels)
    compiled = torch.compile(module)
    limit = torch.tensor(0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in args.batches:
        images, _ = inputs(batch, pixels)
        shown = torch.from_numpy(images)

        def run(one: Callable[..., Any], shown: torch.Tensor = shown) -> Any:
            with torch.inference_mode():
                return one(shown, limit)

        calls = {
            "bare": lambda: run(module),
            "compiled": lambda: run(compiled),
            "guard": session_call(graph, images, 1),
        }
        yield described(backbone, pixels, 1, batch, timed(calls, args))
    torch.set_num_threads(before)


def described(backbone: str, pixels: int, threads: int, batch: int, graphs: dict[str, Any]) -> dict[str, Any]:
    """A record; "bare" is what ratios are over."""
    record = {"backbone": backbone, "pixels": pixels, "threads": threads, "batch": batch, "graphs": graphs}
    print(row(record), flush=True)
    return record


def row(record: dict[str, Any]) -> str:
    """A line of a Markdown table: time of the first, then ratios with their quartiles."""
    cells = [record["backbone"], str(record["threads"]), str(record["batch"])]
    cells.append(f"{record['graphs']['bare']['seconds'] * 1e3:.2f}")
    others = [Timing(**timing) for name, timing in record["graphs"].items() if name != "bare"]
    return "| " + " | ".join(cells + [f"{one.ratio:.3f} ({one.low:.3f}-{one.high:.3f})" for one in others]) + " |"


def table(records: list[dict[str, Any]], first: str = "bare") -> str:
    """Markdown of records with the same graphs."""
    if not records:
        return "Not measured."
    names = [name for name in records[0]["graphs"] if name != "bare"]
    head = ("backbone", "threads", "batch", f"{first}, ms", *names)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + [row(r) for r in records])


def turned(records: list[dict[str, Any]]) -> str:
    """Markdown with a line per graph and a column per batch size: for many graphs on one backbone."""
    if not records:
        return "Not measured."
    heads = [f"batch {r['batch']}" for r in records]
    lines = ["| | " + " | ".join(heads) + " |", "|" + " --- |" * (len(heads) + 1)]
    for name in records[0]["graphs"]:
        if name == "bare":
            continue
        found = [Timing(**r["graphs"][name]) for r in records]
        cells = [f"{one.ratio:.3f} ({one.low:.3f}-{one.high:.3f})" for one in found]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings, found = result["settings"], result["records"]
    return f"""# Latency: guard graph / bare backbone graph, ONNX Runtime on the CPU

Median (quartiles) of {settings["rounds"]} per-round ratios; `benchmarks/latency.py` says what is compared.

{describe(result["machine"])}; load {result["machine"]["load"]} at the start

## The three kinds of head

Goal: at most {GOAL[1]} at batch 1 and {GOAL[8]} from batch 8.

{table(found["kinds"])}

## In int8

Over the bare backbone in int8; the same goal.

{table(found["int8"])}

## Every score and every head

{settings["first"]}, one thread; knn with a bank of {BANK:,}. `recommended` is the score of the method of that name.

{turned(found["scores"])}

## kNN with a bank of {LARGE:,} x 512

Over the bare {BANK_BACKBONE}, one thread. Goal: at most {GOAL_BANK} from batch 8.

{table(found["banks"])}

## Torch

The exported guard, and the module under torch.compile, over the same module in eager mode, one thread. Goal for the
guard: at most {GOAL_TORCH} at batch 1.

{table(found["torch"], "eager")}
"""


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All tables' records."""
    first = args.backbones[0]
    one = argparse.Namespace(**{**vars(args), "threads": [1]})
    found: dict[str, list[dict[str, Any]]] = {}
    found["kinds"] = [r for backbone in args.backbones for r in of_graphs(backbone, KINDS, args)]
    if args.quick:
        return found
    found["int8"] = [r for backbone in args.backbones for r in of_int8(backbone, args)]
    found["torch"] = [r for backbone in args.backbones for r in of_torch(backbone, args)]
    found["scores"] = list(of_graphs(first, all_scores() | all_heads(), one))
    found["banks"] = list(of_graphs(BANK_BACKBONE, banks(), one))
    return found


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="the first gets all scores")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--round-s", type=float, default=0.05, help="least seconds per graph and round")
    parser.add_argument(
        "--quick", action="store_true", help="three heads, first backbone, batch 1 and 8; writes nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "latency.json")
    args = parser.parse_args()
    if args.quick:
        args.backbones, args.batches = args.backbones[:1], args.batches[:2]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    began, facts = time.perf_counter(), machine()
    records = measure(args)
    settings = {"rounds": args.rounds, "round_s": args.round_s, "classes": CLASSES, "bank": BANK, "opset": OPSET}
    settings |= {"spinning": "default", "first": args.backbones[0], "seconds": round(time.perf_counter() - began)}
    result = {
        "benchmark": "latency",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "records": records,
    }
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(f"{settings['seconds']} s" + ("" if args.quick else f"; written to {args.out.with_suffix('.md')}"))


if __name__ == "__main__":
    main()
