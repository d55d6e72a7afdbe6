"""Which method and which score: AUROC and both FPR95s of every combination on the same images.

    python -m benchmarks.detection digits                            # nothing needed; about 10 minutes on 2 cores
    python -m benchmarks.detection parquet --train cifar10/train.parquet --test cifar10/test.parquet \\
        --ood ood/ --outliers auxiliary/tiny_imagenet_train.parquet --runs runs/cifar --epochs 15

Each training method is run once per seed (run folders are kept and reused under --runs); each score is then fitted on
that same network. Results go to benchmarks/results/detection_<name>.json and .md, with the machine and versions.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import guard
from guard import demo_images, metrics
from guard.detector import Guard
from train.data import ImageData, load

from .machine import machine

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
OOD_IMAGES = 400  # of each set made on the spot
FITTED = ("msp", "max_logit", "energy", "mahalanobis", "knn", "vim", "cosine")


@dataclass(frozen=True)
class Recipe:
    """One training: its name in the table and the arguments of guard.train."""

    name: str
    arguments: dict[str, Any]
    start_from: str | None = None  # the recipe whose network it fine-tunes


def recipes(outliers: str | None) -> list[Recipe]:
    """What is compared. Methods that fine-tune start from the plain run, as their papers do."""
    listed = [
        Recipe("plain", {"method": "plain"}),
        Recipe("plain, cosine head", {"method": "plain", "head": "cosine", "score": "cosine"}),
        Recipe("vos", {"method": "vos"}),
        Recipe("mim", {"method": "mim"}, "plain"),
        Recipe("rejection, patch_shuffle", {"method": "rejection", "outliers": "patch_shuffle"}, "plain"),
        Recipe("rejection, pixel_average", {"method": "rejection", "outliers": "pixel_average"}, "plain"),
    ]
    if outliers:
        listed.append(Recipe("rejection, given", {"method": "rejection", "outliers": outliers}, "plain"))
        listed.append(Recipe("oe", {"method": "oe", "outliers": outliers}))
    return listed


def trained(recipe: Recipe, data: str, folder: Path, epochs: int, seed: int) -> tuple[Guard, float]:
    """The recipe's guard, trained now or read from its run folder; seconds of training (0 where read)."""
    out = folder / f"{recipe.name.replace(', ', '-').replace(' ', '_')}-s{seed}"
    if (out / "guard.json").exists():
        return guard.load(out), 0.0
    extra: dict[str, Any] = {"epochs": epochs}
    if recipe.start_from:
        extra["init"] = folder / f"{recipe.start_from}-s{seed}"
    began = time.perf_counter()
    g = guard.train(data, seed=seed, out=out, resume=out.exists(), **recipe.arguments, **extra)
    return g, time.perf_counter() - began


def measured(g: Guard, test: ImageData, ood: dict[str, ImageData]) -> dict[str, Any]:
    """Accuracy, false-alarm rate and detection numbers of one guard."""
    inside = g.predict_batches(batch for batch, _ in test.batches(256))
    row: dict[str, Any] = {
        "accuracy": float((inside.label == test.labels).mean()),
        "false_alarm_rate": float(inside.is_ood.mean()),
        "ood": {},
    }
    for name, images in ood.items():
        outside = g.predict_batches(batch for batch, _ in images.batches(256))
        row["ood"][name] = {
            "auroc": metrics.auroc(inside.ood_score, outside.ood_score),
            "fpr_at_95_id_tpr": metrics.fpr_at_95_id_tpr(inside.ood_score, outside.ood_score),
            "fpr_at_95_ood_tpr": metrics.fpr_at_95_ood_tpr(inside.ood_score, outside.ood_score),
        }
    return row


def rows(
    data: str,
    test: ImageData | None,
    ood: dict[str, ImageData],
    folder: Path,
    epochs: int,
    seed: int,
    outliers: str | None,
    only: list[str] | None,
) -> Iterator[dict[str, Any]]:
    """A row per recipe and score. Without a test set of its own, each run's held-out split is used."""
    source = load(data)
    for recipe in recipes(outliers):
        if only and recipe.name not in only:
            continue
        g, seconds = trained(recipe, data, folder, epochs, seed)
        held_out = test or source.subset(_test_rows(g, source))
        own = g.manifest.score
        yield {
            "method": recipe.name,
            "score": own,
            "seed": seed,
            "train_seconds": seconds,
            **measured(g, held_out, ood),
        }
        if recipe.name.startswith("rejection"):
            continue  # the network below is plain's
        for score in FITTED:
            if score == own:
                continue
            fitted = guard.fit(g, data, score=score, seed=seed)
            yield {"method": recipe.name, "score": score, "seed": seed, **measured(fitted, held_out, ood)}


def _test_rows(g: Guard, source: ImageData) -> np.ndarray:
    from train.data import split

    counts = g.manifest.data[0].splits
    assert source.labels is not None
    return split(source.labels, seed=g.manifest.seed, calibration=counts["calibration"], test=counts["test"])["test"]


def table(result: list[dict[str, Any]], near: list[str]) -> str:
    """Markdown: AUROC (mean over seeds) per OOD set, near and far means, accuracy."""
    sets = list(result[0]["ood"])
    far = [name for name in sets if name not in near]
    head = ["method", "score", "accuracy", "false alarms", *sets, "near mean", "far mean", "far FPR95 (ID TPR)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, score in dict.fromkeys((r["method"], r["score"]) for r in result):
        group = [r for r in result if (r["method"], r["score"]) == (method, score)]

        def mean(names: list[str], metric: str = "auroc", group: list[dict[str, Any]] = group) -> str:
            values = [r["ood"][name][metric] for r in group for name in names]
            return f"{100 * np.mean(values):.1f}" if values else "-"

        cells = [f"{100 * np.mean([r[key] for r in group]):.1f}" for key in ("accuracy", "false_alarm_rate")]
        cells += [mean([name]) for name in sets]
        cells += [mean(near), mean(far), mean(far, "fpr_at_95_id_tpr")]
        lines.append("| " + " | ".join([method, score, *cells]) + " |")
    return "\n".join(lines) + "\n"


def write(name: str, settings: dict[str, Any], result: list[dict[str, Any]], near: list[str]) -> None:
    """The JSON and the table."""
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": "detection", "settings": settings, "machine": machine(), "near": near, "rows": result}
    (RESULTS / f"detection_{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"detection_{name}.md").write_text(table(result, near))
    print(table(result, near))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["digits", "parquet"])
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--ood", help="a folder of Parquet files")
    parser.add_argument("--near", nargs="*", default=[], help="which OOD sets are near")
    parser.add_argument("--outliers")
    parser.add_argument("--runs", default="runs/detection")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the trainings to compare; default all")
    parser.add_argument("--name", help="of the result files")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if a.kind == "digits":
        data, test, near = "digits:0-7", None, ["digits 8-9"]
        preprocess = load(data).preprocess
        sets: dict[str, Any] = {"digits 8-9": "digits:8-9"}
        for make in (
            demo_images.photo_patches,
            demo_images.uniform_noise,
            demo_images.smooth_noise,
            demo_images.letters,
        ):
            sets[make.__name__.replace("_", " ")] = make(OOD_IMAGES, preprocess.height)
        ood = {name: load(images, preprocess=preprocess, labelled=False) for name, images in sets.items()}
    else:
        data, near = a.train, a.near
        test = load(a.test)
        files = sorted(Path(a.ood).glob("*.parquet"))
        ood = {f.stem: load(f, preprocess=test.preprocess, labelled=False) for f in files}
    result = []
    for seed in range(a.seeds):
        result += list(rows(data, test, ood, Path(a.runs), a.epochs, seed, a.outliers, a.only))
        write(a.name or a.kind, {"epochs": a.epochs, "seeds": seed + 1}, result, near)


if __name__ == "__main__":
    main()
