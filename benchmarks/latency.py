"""What a guard costs at run time: its graph against the bare backbone's own, in ONNX Runtime on the CPU.

    python -m benchmarks.latency            # about 5 minutes on 2 cores; benchmarks/results/latency.json and .md
    python -m benchmarks.latency --quick    # half a minute, to the terminal only

bare    the backbone with a linear head as torch.onnx writes it: normalised float32 (N, 3, H, W) -> logits
guard   what guard.export writes: uint8 (N, H, W, 3) -> label, probabilities, ood_score, is_ood; normalisation, softmax,
        argmax, score and comparison are all inside
A/A     a second session of the bare graph: how far from 1 a ratio strays by chance

Weights are untrained with random batch-norm statistics (time does not depend on their values, but an untrained
ResNet's zeroed branches could be optimised away); 10 classes; scores are fitted on 6,000 random features.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
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

from export.to_onnx import OPSET, onnx_bytes
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier
from guard.heads import create_head
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.scores import Score, create_score
from guard.scores.energy_logistic import EnergyLogistic
from guard.scores.rejection import Rejection
from train.backbones import create_backbone

RESULTS = Path(__file__).parent / "results"
HEADS = ("energy", "rejection", "cosine")  # the three kinds of head of the product; these have the goals below
OTHERS = ("energy_logistic", "msp", "max_logit", "mahalanobis", "vim", "knn")
BACKBONES = {"wrn16_2": 32, "resnet18_small": 32, "vit_tiny_patch16_224": 64}  # name -> pixels
GOAL = {1: 1.05, 8: 1.02}  # batch size, and from there on
CLASSES = 10
BANK = 5000
NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))


def fresh_classifier(backbone: str, head: str, pixels: int) -> Classifier:
    """An untrained classifier in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    network = create_backbone(backbone, image_size=pixels)
    classifier = Classifier(network, create_head(head, network.num_features, CLASSES))
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return classifier.eval()


def fitted_score(name: str, classifier: Classifier) -> Score:
    """The score with plausible state: fitted on random features, or given a link or a network as its method would."""
    score = create_score(name, **({"max_bank": BANK} if name == "knn" else {}))
    if isinstance(score, Rejection):
        score.build(classifier.num_features)
    elif isinstance(score, EnergyLogistic):
        score.set_link(torch.rand(CLASSES) + 0.5, torch.tensor(2.0), torch.tensor(0.3))
    else:
        features = torch.randn(6000, classifier.num_features).abs()
        logits = classifier.head(features).detach()
        score.fit(features, logits, torch.arange(6000) % CLASSES, classifier.last_layer())
    return score


def guard_graph(backbone: str, score: str, pixels: int) -> bytes:
    """The graph guard.export writes, for a cosine head where the score is "cosine"."""
    classifier = fresh_classifier(backbone, "cosine" if score == "cosine" else "linear", pixels)
    module = GuardModule(classifier, fitted_score(score, classifier), NORMALISATION)
    manifest = Manifest(
        class_names=tuple(str(c) for c in range(CLASSES)),
        preprocess=Preprocess(height=pixels, width=pixels),
        normalisation=NORMALISATION,
        method="plain",
        backbone=backbone,
        head=classifier.head.name,
        score=score,
    )
    return onnx_bytes(module, manifest)


class _Logits(nn.Module):
    """What someone without a guard would export."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images).logits


def bare_graph(backbone: str, pixels: int) -> bytes:
    """Normalised float32 (N, 3, H, W) -> logits, as torch.onnx writes it at the same opset, untouched by us."""
    with redirect_stdout(io.StringIO()), torch.no_grad():
        exported = torch.onnx.export(
            _Logits(fresh_classifier(backbone, "linear", pixels)).eval(),
            (torch.zeros(2, 3, pixels, pixels),),
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return exported.model_proto.SerializeToString()


def session_call(graph: bytes, images: np.ndarray, threads: int) -> Callable[[], Any]:
    """A closure that runs the graph on `images` in a session of its own; ONNX Runtime's defaults but for threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {"images": images}
    return lambda: session.run(None, feed)


def inputs(batch: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The same random images as uint8 (N, H, W, 3) and normalised float32 (N, 3, H, W)."""
    images = np.random.default_rng(0).integers(0, 256, (batch, pixels, pixels, 3), dtype=np.uint8)
    scaled = (images / 255 - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
    return images, np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per backbone, thread count and batch size, each with the timing of every graph."""
    records = []
    for backbone in args.backbones:
        pixels = BACKBONES.get(backbone, 32)
        scores = HEADS + (OTHERS if backbone == args.backbones[0] and not args.quick else ())
        bare = bare_graph(backbone, pixels)
        graphs = {score: guard_graph(backbone, score, pixels) for score in scores}
        for threads in args.threads:
            for batch in args.batches:
                images, normalised = inputs(batch, pixels)
                calls = {name: session_call(bare, normalised, threads) for name in ("bare", "A/A")}
                calls |= {score: session_call(graph, images, threads) for score, graph in graphs.items()}
                timings = interleave(calls, rounds=args.rounds, round_s=args.round_s)
                record = {"backbone": backbone, "pixels": pixels, "threads": threads, "batch": batch}
                records.append({**record, "graphs": {name: asdict(timing) for name, timing in timings.items()}})
                print(row(records[-1], ("A/A", *scores)), flush=True)
    return records


def row(record: dict[str, Any], columns: tuple[str, ...]) -> str:
    """A line of the Markdown table."""
    cells = [record["backbone"], str(record["pixels"]), str(record["threads"]), str(record["batch"])]
    cells.append(f"{record['graphs']['bare']['seconds'] * 1e3:.2f}")
    return "| " + " | ".join(cells + [cell(Timing(**record["graphs"][name])) for name in columns]) + " |"


def cell(timing: Timing) -> str:
    """Median ratio and its quartiles."""
    return f"{timing.ratio:.3f} ({timing.low:.3f}-{timing.high:.3f})"


def table(records: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Markdown of the records that have all `columns`."""
    head = ("backbone", "pixels", "threads", "batch", "bare, ms", *columns)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + [row(r, columns) for r in records if set(columns) <= set(r["graphs"])])


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings, facts = result["settings"], result["machine"]
    return f"""# Latency: guard graph / bare backbone graph, ONNX Runtime on the CPU

Median (quartiles) of {settings["rounds"]} per-round ratios; `benchmarks/latency.py` says what is compared.
Goal for these three heads: at most {GOAL[1]} at batch 1 and {GOAL[8]} from batch 8.

{describe(facts)}; load {facts["load"]} at the start

{table(result["records"], ("A/A", *HEADS))}

The other scores (knn: a bank of {settings["bank"]} features):

{table(result["records"], ("A/A", *OTHERS))}
"""


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
    settings |= {"spinning": "default", "seconds": round(time.perf_counter() - began)}
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
