"""Which method and which score: accuracy, AUROC, both FPR95s and time of every combination on the same images.

    python -m benchmarks.detection digits                            # nothing needed; about 10 minutes on 2 cores
    python -m benchmarks.detection parquet --train cifar10/train.parquet --test cifar10/test.parquet \\
        --ood ood/ --near tiny_imagenet tiny_imagenet_sharp --outliers auxiliary/tiny_imagenet_train.parquet \\
        --runs runs/cifar --epochs 15 --seeds 3 --only plain vos dmr

This is `guard.benchmark` with the trainings of `recipes.py`: run folders and rows are kept under --runs, what is there
is not done again, a stopped run resumes, and two processes divide the work. Where --outliers have class names, each OOD
set with some of these classes is also measured without them. Results go to benchmarks/results/detection_<name>.json and
.md, beside the rows of other trainings with the same settings.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

import guard
from benchmarks import recipes
from guard.data import ImageData, load
from guard.latency.machine import describe, machine

RESULTS = Path(__file__).parent / "results"
ROW = ("method", "score", "seed", "train_seconds", "accuracy", "false_alarm_rate")
MADE = {
    "photo patches": "photo_patches",
    "uniform noise": "uniform_noise",
    "smooth noise": "smooth_noise",
    "letters": "letters",
}


def without_shared_classes(ood: dict[str, ImageData], outliers: str | None) -> dict[str, ImageData]:
    """The OOD sets, and those that share classes with the given outliers once more without these."""
    names = set(load(outliers).class_names) if outliers else set()
    found = {}
    for name, images in ood.items():
        found[name] = images
        if names & set(images.class_names) and images.labels is not None:
            others = [i for i, label in enumerate(images.labels) if images.class_names[label] not in names]
            found[f"{name}, other classes"] = images.subset(np.array(others))
    return found


def spread(values: list[float]) -> str:
    """Percent: the mean, and the standard deviation where there are several."""
    if not values:
        return "-"
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def table(result: list[dict[str, Any]], near: list[str], metric: str = "auroc") -> str:
    """Markdown: one metric (mean over seeds) per OOD set, near and far means, accuracy, time."""
    sets = list(result[0]["ood"])
    near = [name for name in sets if name.split(",")[0] in near and "," not in name]
    far = [name for name in sets if name.split(",")[0] not in near]
    head = ["method", "score", "seeds", "accuracy", "false alarms", *sets, "near mean", "far mean", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, score in dict.fromkeys((r["method"], r["score"]) for r in result):
        group = [r for r in result if (r["method"], r["score"]) == (method, score)]

        def mean(names: list[str], group: list[dict[str, Any]] = group) -> str:
            return spread([float(np.mean([r["ood"][name][metric] for name in names])) for r in group if names])

        cells = [str(len(group)), *(spread([r[key] for r in group]) for key in ("accuracy", "false_alarm_rate"))]
        cells += [mean([name]) for name in sets]
        cells += [mean(near), mean(far), f"{np.mean([r['train_seconds'] for r in group]) / 60:.1f}"]
        lines.append("| " + " | ".join([method, score, *cells]) + " |")
    return "\n".join(lines) + "\n"


METRICS = {
    "auroc": "AUROC",
    "aupr_in": "AUPR, in-distribution images positive",
    "aupr_out": "AUPR, OOD positive",
    "fpr_at_95_id_tpr": "FPR95: share of OOD accepted where 95 % of in-distribution images are",
    "fpr_at_95_ood_tpr": "FPR95 as OpenOOD counts it: share of in-distribution images flagged where 95 % of OOD are",
}


def report(record: dict[str, Any]) -> str:
    """The .md file: a table per metric, in percent."""
    settings, result = record["settings"], record["rows"]
    seeds = sorted({r["seed"] for r in result})
    note = "Spread over seeds: standard deviation." if len(seeds) > 1 else "One seed: the spread is unknown."
    parts = [
        "# Detection: every method and score on the same images",
        f"{settings['backbone']}, {settings['epochs']} epochs, seeds {', '.join(map(str, seeds))}. {note} Percent; "
        "minutes of training on the machine below, with others at work on it at times.",
        describe(record["machine"]),
    ]
    for metric, title in METRICS.items():
        having = [r for r in result if all(metric in numbers for numbers in r["ood"].values())]  # older rows lack some
        if having:
            parts += [f"## {title}", table(having, record["near"], metric)]
    return "\n\n".join(parts)


def asked(a: argparse.Namespace) -> dict[str, Any]:
    """The keys of `guard.benchmark` for the arguments of the command line."""
    methods = recipes.methods(a.outliers)
    unknown = [name for name in a.only or () if name not in methods]
    if unknown:
        raise SystemExit(f"no training is called {unknown[0]!r}; there are {', '.join(methods)}")
    wanted = set(a.only or methods)
    wanted |= {"plain"} if any("init" in methods[name] for name in wanted) else set()
    methods = {name: told for name, told in methods.items() if name in wanted}
    if a.kind == "digits":
        data, ood = {"train": "digits:0-7"}, {"near": {"digits 8-9": "digits:8-9"}, "far": MADE}
    else:
        data = {"train": a.train, "test": a.test}
        test = load(a.test)
        sets = {
            f.stem: load(f, preprocess=test.preprocess, all_classes=False)
            for f in sorted(Path(a.ood).glob("*.parquet"))
        }
        every = without_shared_classes(sets, a.outliers)
        ood = {
            "near": {name: images for name, images in every.items() if name in a.near},
            "far": {name: images for name, images in every.items() if name in sets and name not in a.near},
            "other": {name: images for name, images in every.items() if name not in sets},
        }
    return {
        "name": a.name or a.kind,
        "data": data,
        "ood": ood,
        "backbones": [a.backbone],
        "epochs": a.epochs,
        "seeds": a.seeds,
        "stores": recipes.stores(set(methods)),
        "methods": methods,
        "scores": ["own", *recipes.SCORES],
        "out": str(Path(a.runs).resolve()),
    }


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["digits", "parquet"])
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--ood", help="a folder of Parquet files")
    parser.add_argument("--near", nargs="*", default=[], help="which OOD sets are near")
    parser.add_argument("--outliers")
    parser.add_argument("--runs", default="runs/detection")
    parser.add_argument("--backbone", default="wrn16_2")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the trainings to compare; default all")
    parser.add_argument("--name", help="of the result files")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keys = asked(a)
    found = guard.benchmark(keys)
    settings = {
        "epochs": a.epochs,
        "backbone": a.backbone,
        "test": a.test and Path(a.test).name,
        "sets": sorted((*found.near, *found.far, *found.other)),
    }
    rows = [{**{key: row[key] for key in ROW}, "ood": row["ood"]} for row in found.rows]
    path = RESULTS / f"detection_{a.name or a.kind}.json"
    if path.exists():
        before = json.loads(path.read_text())
        same = {**before["settings"], "sets": sorted(before["settings"].get("sets", ()))} == settings
        now = {(row["method"], row["seed"]) for row in rows}
        rows = [row for row in before["rows"] if same and (row["method"], row["seed"]) not in now] + rows
    record = {
        "benchmark": "detection",
        "settings": settings,
        "machine": machine(),
        "near": list(found.near),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(report(record))
    print(report(record))


if __name__ == "__main__":
    main()
