"""Every classifier head on the same images in the same budget: accuracy against softmax, and what detects on it.

    python -m benchmarks.heads --train cifar10/train.parquet --test cifar10/test.parquet --ood ood/ --near tiny_imagenet

One network per head (run folders are kept under --runs): the same backbone, epochs, learning rate, seed and split; only
the head differs, with its defaults. Each score is fitted to features of training images of that network, taken once.
Results go to benchmarks/results/heads_<name>.json and .md after every head; heads that are in the file with the same
settings are not run again, and a training that was stopped resumes from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

import guard
from guard.data import ImageData, load, split
from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.latency.machine import describe, machine
from guard.scores import create_score
from train.benchmark.outputs import detection_numbers, images_of, outputs_of, scores_of

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
SCORES = ("cosine", "energy", "knn")
GOAL = 1.5  # points of accuracy below softmax
# row of the table -> head and its options; the first is what the others are compared with
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear (softmax)": ("linear", {}),
    "cosine": ("cosine", {}),
    "adacos, fixed": ("adacos", {}),
    "adacos, adaptive": ("adacos", {"adaptive": True}),
    "arcface": ("arcface", {}),
    "cosface": ("cosface", {}),
    "sphereface": ("sphereface", {}),
    "c_plus_1": ("c_plus_1", {}),
    "hypersphere": ("hypersphere", {}),
}


def detection(
    name: str,
    fitting: Outputs,
    labels: torch.Tensor,
    last: LastLayer | None,
    inside: Outputs,
    outside: dict[str, Outputs],
) -> dict[str, Any]:
    """AUROC and FPR95 of a score on each OOD set."""
    score = create_score(name).fit(fitting.features, fitting.logits, labels, last)

    own = scores_of(score, inside)
    return {key: detection_numbers(own, scores_of(score, images)) for key, images in outside.items()}


def row(a: argparse.Namespace, name: str, data: Any, test: ImageData, ood: dict[str, ImageData]) -> dict[str, Any]:
    """Train one head, or take it from its run folder, and measure it."""
    head, options = HEADS[name]
    out = Path(a.runs) / name.replace(", ", "-").split(" ")[0]
    if (out / "guard.json").exists():
        g = guard.load(out)
    else:
        g = guard.train(
            data, backbone=a.backbone, head=head, head_options=options, epochs=a.epochs, seed=a.seed, lr=a.lr,
            score="energy", out=out, resume=out.exists(),
        )  # fmt: skip
    own = split(data[1], seed=a.seed, **{key: g.manifest.data[0].splits[key] for key in ("calibration", "test")})
    rows = own["train"][np.linspace(0, len(own["train"]) - 1, a.fit_images).round().astype(np.int64)]
    labels = torch.from_numpy(data[1][rows])
    fitting = outputs_of(g, np.array_split(data[0][rows], -(-len(rows) // 256)))
    inside = outputs_of(g, images_of(test))
    outside = {key: outputs_of(g, images_of(each)) for key, each in ood.items()}
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = g.module.classifier.last_layer()
    return {
        "name": name,
        "head": head,
        "head_options": g.manifest.head_options,
        "accuracy": float((inside.logits.argmax(-1).numpy() == test.labels).mean()),
        "train_accuracy": epochs[-1]["accuracy"],
        "train_seconds": round(sum(e["seconds"] for e in epochs), 1),
        "scores": {score: detection(score, fitting, labels, last, inside, outside) for score in SCORES},
    }


def table(record: dict[str, Any]) -> str:
    """Markdown: accuracy, its difference to softmax, near and far AUROC of each score."""
    s, rows = record["settings"], record["rows"]
    reference = next((r["accuracy"] for r in rows if r["name"] == next(iter(HEADS))), None)
    titles = ["head", "accuracy", "to softmax", *(f"{score} {group}" for score in SCORES for group in ("near", "far"))]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for r in rows:
        sets = list(r["scores"][SCORES[0]])
        groups = [[n for n in sets if n in s["near"]], [n for n in sets if n not in s["near"]]]
        cells = [r["name"], f"{100 * r['accuracy']:.1f}"]
        cells.append("-" if reference is None else f"{100 * (r['accuracy'] - reference):+.1f}")
        for score in SCORES:
            for names in groups:
                values = [r["scores"][score][n]["auroc"] for n in names]
                cells.append(f"{100 * np.mean(values):.1f}" if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    context = f"{s['backbone']}, {s['epochs']} epochs, lr {s['lr']}, seed {s['seed']}"
    near = ", ".join(s["near"])
    return f"""# Heads: accuracy and detection in one budget

{context}, 46,000 training images of CIFAR-10; accuracy on its 10,000 test images.
AUROC in percent, mean over the near ({near}) and over the far OOD sets.
The goal is an accuracy at most {GOAL} points below softmax.

{describe(record["machine"])}

""" + "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--ood", required=True, help="a folder of Parquet files")
    parser.add_argument("--near", nargs="*", default=[], help="which OOD sets are near")
    parser.add_argument("--backbone", default="wrn10_2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit-images", type=int, default=10_000, help="training images the scores are fitted to")
    parser.add_argument("--only", nargs="*", choices=list(HEADS), help="default all")
    parser.add_argument("--runs", default="runs/heads")
    parser.add_argument("--name", default="cifar10", help="of the result files")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    path = RESULTS / f"heads_{a.name}.json"
    settings = {key: getattr(a, key) for key in ("backbone", "epochs", "lr", "seed", "fit_images", "near")}
    record: dict[str, Any] = {"benchmark": "heads", "settings": settings, "machine": machine(), "rows": []}
    if path.exists():
        saved = json.loads(path.read_text())
        if saved["settings"] == settings:
            record = saved
        else:
            parser.error(f"{path} has other settings ({saved['settings']}); choose another --name, or remove it")
    source, test = load(a.train), load(a.test)  # decoded once; the runs get arrays
    data = (source.take(np.arange(len(source))), np.asarray(source.labels))
    files = sorted(Path(a.ood).glob("*.parquet"))
    ood = {f.stem: load(f, preprocess=test.preprocess, labelled=False) for f in files}
    for name in a.only or HEADS:
        if any(r["name"] == name for r in record["rows"]):
            continue
        record["rows"].append(row(a, name, data, test, ood))
        record["rows"].sort(key=lambda r: list(HEADS).index(r["name"]))
        path.write_text(json.dumps(record, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(record))
        print(table(record), flush=True)


if __name__ == "__main__":
    main()
