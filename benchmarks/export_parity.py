"""Does the exported file decide the same? Every exportable score on three networks, over a whole test set.

    python -m benchmarks.export_parity --train cifar10/train.parquet --test cifar10/test.parquet --runs runs/parity

The networks (WRN-10-2, timm's ResNet-18 and ViT-tiny) are trained for a few epochs on part of the images, so that their
weights and batch-norm statistics are those of a network in use; run folders are kept under --runs and used again. Each
score is fitted (or learned, where a method or a head teaches it), exported, and its file is verified against torch on
every test image: a flip is an image whose label or flag changes. The goal is none.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import guard
from guard.data import load
from guard.detector import Guard
from guard.latency.machine import describe, machine
from guard.scores import get_score

RESULTS = Path(__file__).parent / "results"
NETWORKS: dict[str, dict[str, Any]] = {
    "wrn10_2": {},
    "resnet18": {"lr": 0.05},
    "vit_tiny_patch16_224": {"lr": 0.02},
}
# scores that training teaches: how
LEARNED: dict[str, dict[str, Any]] = {
    "energy_logistic": {"method": "vos"},
    "rejection": {"method": "rejection"},
    "reject_class": {"method": "plain", "head": "c_plus_1"},
}


def network(backbone: str, data: Any, runs: Path, epochs: int) -> Path:
    """The run folder of a plainly trained network, trained now where there is none."""
    out = runs / backbone
    if not (out / "guard.json").exists():
        guard.train(
            data, backbone=backbone, score="energy", epochs=epochs, image_size=32, out=out, resume=out.exists(),
            **NETWORKS[backbone],
        )  # fmt: skip
    return out


def guarded(score: str, backbone: str, data: Any, base: Path, epochs: int) -> Guard:
    """The base network with this score; a short training of its own where the score is learned with a head."""
    if score not in LEARNED:
        return guard.fit(base, data, score=score)
    recipe = LEARNED[score]
    init: dict[str, Any] = {} if "head" in recipe else {"init": base}
    frozen = recipe["method"] == "rejection"
    schedule = {"tune_epochs": epochs} if frozen else {"epochs": epochs, **NETWORKS[backbone]}
    return guard.train(data, backbone=backbone, score=score, image_size=32, **recipe, **init, **schedule)


def rows(
    networks: list[str], data: Any, test: Any, runs: Path, epochs: int, done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row per network and score that is not in `done`."""
    have = {(row["network"], row["score"]) for row in done}
    exportable = [name for name in guard.list_scores() if not get_score(name).no_export]
    for backbone in networks:
        base = network(backbone, data, runs, epochs)
        for score in exportable:
            if (backbone, score) in have:
                continue
            began = time.perf_counter()
            with TemporaryDirectory() as folder:
                g = guarded(score, backbone, data, base, 1)
                file = guard.export(g, Path(folder) / "guard.onnx", max_flag_flips=10**9)
                report = guard.verify(file, against=g, data=test, batch_size=250, max_flag_flips=10**9)
                size = file.stat().st_size
            yield {
                "network": backbone,
                "score": score,
                "images": report.images,
                "flag_flips": report.flag_flips,
                "label_changes": report.label_changes,
                "max_relative_score_difference": report.max_relative_score_difference,
                "max_probability_difference": report.max_probability_difference,
                "flagged": report.false_alarm_rate[1],
                "megabytes": round(size / 1e6, 2),
                "seconds": round(time.perf_counter() - began, 1),
            }


def table(result: list[dict[str, Any]]) -> str:
    """Markdown, a line per network and score."""
    head = ["network", "score", "images", "flips", "label changes", "score diff. (relative)", "flagged", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in result:
        cells = [r["network"], r["score"], str(r["images"]), str(r["flag_flips"]), str(r["label_changes"])]
        cells += [f"{r['max_relative_score_difference']:.1e}", f"{100 * r['flagged']:.1f} %", f"{r['megabytes']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--runs", default="runs/parity", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=12_000, help="training images used")
    parser.add_argument("--again", action="store_true", help="measure rows that the result file has already")
    a = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    source = load(a.train)
    picked = np.linspace(0, len(source) - 1, min(a.images, len(source))).round().astype(np.int64)
    assert source.labels is not None
    data = (source.take(picked), source.labels[picked])
    held_out = load(a.test)
    test = (held_out.take(np.arange(len(held_out))), held_out.labels)
    path = RESULTS / "export_parity.json"
    result = [] if a.again or not path.exists() else json.loads(path.read_text())["rows"]
    settings = {"epochs": a.epochs, "training_images": len(picked), "test_images": len(held_out), "image_size": 32}
    for row in rows(a.networks, data, test, a.runs, a.epochs, result):
        result.append(row)
        facts = machine()
        record = {"benchmark": "export_parity", "settings": settings, "machine": facts, "rows": result}
        path.write_text(json.dumps(record, indent=1) + "\n")
        path.with_suffix(".md").write_text(f"{describe(facts)}\n\n{table(result)}")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
