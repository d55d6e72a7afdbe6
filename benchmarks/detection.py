"""Which method and which score: accuracy, AUROC, both FPR95s and time of every combination on the same images.

    python -m benchmarks.detection digits                            # nothing needed; about 10 minutes on 2 cores
    python -m benchmarks.detection parquet --train cifar10/train.parquet --test cifar10/test.parquet \\
        --ood ood/ --near tiny_imagenet tiny_imagenet_sharp --outliers auxiliary/tiny_imagenet_train.parquet \\
        --runs runs/cifar --epochs 15 --seeds 3 --only plain vos dmr

Each training method is run once per seed with the same backbone and epochs; run folders are kept and reused under
--runs, and a stopped one resumes. Methods that fine-tune or add a rejection network to a classifier start from the
plain run of their seed, and their time is that run's and their own; MLM, DMR and DMR+MLM share one generator, and the
methods that decode with a diffusion model share one of these, which the first of them trains; OAL's teacher is the
plain network. Every score is then fitted on that same network.
Where --outliers have class names, each OOD set with some of these classes is also measured without them. Results go to
benchmarks/results/detection_<name>.json and .md after every method; what is there with the same settings is not run
again.
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
import torch

import guard
from benchmarks.machine import describe, machine
from benchmarks.outputs import detection_numbers, images_of, outputs_of, scores_of
from guard.calibration.conformal import calibrate
from guard.data import ImageData, load, split
from guard.demo import images as demo_images
from guard.detector import Guard
from guard.graph.outputs import Outputs
from guard.scores import Score, create_score
from train.methods import get_method
from train.runs.fit import carried_over

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
OOD_IMAGES = 400  # of each set made on the spot
FITTED = ("msp", "energy", "mahalanobis", "knn", "vim", "energy+knn", "energy+vim")
COMBINED = ("energy", "knn", "vim", "energy+vim")  # with a learned score
ALPHA = 0.05
CHEAP = ("patch_mix", "patch_shuffle", "phase_mix", "pixel_average", "rotation", "smooth_noise", "strokes")
TUNING = {"ratio": 1.0, "tune_epochs": 2}  # of energy_ft: 2.0 and 10 as published take longer than all of plain
STORE = 20_000  # outliers of the methods that make them once
SHORT = {"epochs": 3, "lr": 0.01}  # of methods whose steps or images are dear: tuning in place of training from scratch
DIFFUSED = ("label_mixup", "dream_ood", "dream_id", "bood", "ncis")
DECODED = {"diffusion": {"conditioning": "label"}}  # of the diffusion model that they share
GENERATED = {**DECODED, "store_size": 3_000, "ratio": 0.5}  # dear images, and few in a step
EMBEDDED = {"embed": {"per_class": 100}, "invariants": {"epochs": 50}}  # of ncis, which by default embeds every image
SECONDS = "benchmark_seconds"  # in a run folder: how long its training took


@dataclass(frozen=True)
class Recipe:
    """One training: its name in the table and the arguments of guard.train."""

    name: str
    arguments: dict[str, Any]
    start_from: str | None = None  # the recipe whose network it fine-tunes
    store: str | None = None  # the synthesiser of the store it learns from, made first
    match: tuple[str, ...] = ()  # what the store's outliers take over from in-distribution images


def recipes(outliers: str | None) -> list[Recipe]:
    """What is compared. Methods that fine-tune start from the plain run, as their papers do."""
    listed = [
        Recipe("plain", {"method": "plain"}),
        Recipe("plain, cosine head", {"method": "plain", "head": "cosine", "score": "cosine"}),
        Recipe("phase_mix", {"method": "phase_mix"}, "plain"),
        Recipe("vos", {"method": "vos"}),
        Recipe("npos", {"method": "npos"}),
        Recipe("gan", {"method": "gan", "beta": 0.1, **SHORT, "epochs": 2}, "plain"),
        Recipe("ceda", {"method": "ceda", **SHORT}, "plain"),
        Recipe("acet", {"method": "acet", "steps": 5, "ratio": 0.25, **SHORT}, "plain"),
        Recipe("atol", {"method": "atol", "gan": {"epochs": 5}, "ratio": 1.0, "tune_epochs": 2}, "plain"),
        *(Recipe(name, {"method": name}, "plain") for name in ("mim", "cmg_e")),
        Recipe("cmg_s", {"method": "cmg_s", "tune_epochs": 5}, "plain"),
        *(
            Recipe(name, {"method": name, "store_size": STORE}, "plain")
            for name in ("kirby", "mlm", "dmr", "dmr_mlm", "dmr_kirby")
        ),
        *(
            Recipe(f"{name} matched", {"method": name, "store_size": STORE, "match": ("spectrum",)}, "plain")
            for name in ("mlm", "dmr", "dmr_mlm")
        ),
        *(
            Recipe(name, {"method": name, **GENERATED, **SHORT, **(EMBEDDED if name == "ncis" else {})}, "plain")
            for name in DIFFUSED
        ),
        Recipe(
            "label_mixup matched",
            {"method": "label_mixup", **GENERATED, **SHORT, "match": ("spectrum", "coding")},
            "plain",
        ),
        Recipe("fodfom", {"method": "fodfom", **GENERATED, "store_size": 1_500, "tune_epochs": 3}, "plain"),
        Recipe("oal", {"method": "oal", **DECODED, "tune_epochs": 3}, "plain"),
        *(Recipe(f"rejection, {name}", {"method": "rejection"}, "plain", store=name) for name in CHEAP),
        *(
            Recipe(f"rejection, {name} matched", {"method": "rejection"}, "plain", store=name, match=("spectrum",))
            for name in ("pixel_average", "patch_shuffle")
        ),
    ]
    if outliers:
        listed.append(Recipe("rejection, given", {"method": "rejection", "outliers": outliers}, "plain"))
        listed.append(Recipe("oe", {"method": "oe", "outliers": outliers, "ratio": 1.0}))
        listed.append(Recipe("energy_ft", {"method": "energy_ft", "outliers": outliers, **TUNING}, "plain"))
    return listed


def run_folder(recipe: str, folder: Path, seed: int) -> Path:
    """Where the run of a recipe lies."""
    return folder / f"{recipe.replace(', ', '-').replace(' ', '_')}-s{seed}"


def shared_parts(recipe: Recipe, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The nested options of what runs share: the pair, the diffusion model, and the plain run as a teacher."""
    kept = {"pair": ("folder", "pair"), "diffusion": ("folder", "diffusion"), "teacher": ("model", "plain")}
    options = get_method(recipe.arguments["method"]).Options.model_fields
    return {
        name: {key: str(run_folder(run, folder, seed)), **recipe.arguments.get(name, {})}
        for name, (key, run) in kept.items()
        if name in options
    }


def trained(recipe: Recipe, data: str, folder: Path, epochs: int, seed: int, backbone: str) -> tuple[Guard, float]:
    """The recipe's guard, trained now or read from its run folder, and the seconds its training took in all."""
    out = run_folder(recipe.name, folder, seed)
    clock = out / SECONDS
    spent = float(clock.read_text()) if clock.exists() else 0.0
    if (out / "guard.json").exists():
        return guard.load(out), spent
    extra: dict[str, Any] = {"epochs": epochs, "backbone": backbone}
    if recipe.start_from:
        extra["init"] = run_folder(recipe.start_from, folder, seed)
    if recipe.store:
        store = folder / "stores" / "-".join([recipe.store, *recipe.match])
        guard.synth(data, method=recipe.store, count=STORE, out=store, match=recipe.match, seed=seed, gallery=False)
        extra["outliers"] = str(store)
    extra |= recipe.arguments | shared_parts(recipe, folder, seed)
    began = time.perf_counter()
    try:
        g = guard.train(data, seed=seed, out=out, resume=out.exists(), **extra)
    finally:
        if out.exists():
            clock.write_text(f"{spent + time.perf_counter() - began:.1f}")
    return g, float(clock.read_text())


def rows(
    recipe: Recipe, data: str, test: ImageData | None, ood: dict[str, ImageData], a: argparse.Namespace, seed: int
) -> Iterator[dict[str, Any]]:
    """A row per score. Without a test set of its own, each run's held-out split is used."""
    source, seconds = load(data), 0.0
    if recipe.start_from:
        first = next(r for r in recipes(a.outliers) if r.name == recipe.start_from)
        seconds = trained(first, data, Path(a.runs), a.epochs, seed, a.backbone)[1]
    g, own_seconds = trained(recipe, data, Path(a.runs), a.epochs, seed, a.backbone)
    seconds += own_seconds
    assert source.labels is not None
    counts = g.manifest.data[0].splits
    parts = split(source.labels, seed=g.manifest.seed, calibration=counts["calibration"], test=counts["test"])
    held_out = test or source.subset(parts["test"])
    fitting, calibration, inside = (
        outputs_of(g, images_of(images))
        for images in (source.subset(parts["train"]), source.subset(parts["calibration"]), held_out)
    )
    outside = {name: outputs_of(g, images_of(images)) for name, images in ood.items()}
    accuracy = float((inside.logits.argmax(-1).numpy() == held_out.labels).mean())
    labels = torch.from_numpy(source.labels[parts["train"]])
    for score in ready_scores(g, fitting, labels, calibration):
        own = scores_of(score, inside)
        threshold = g.threshold
        if score is not g.module.score:
            threshold = calibrate(scores_of(score, _second_half(calibration)), alpha=ALPHA).threshold
        yield {
            "method": recipe.name,
            "score": "+".join(part.name for part in score.parts()),
            "seed": seed,
            "train_seconds": seconds,
            "accuracy": accuracy,
            "false_alarm_rate": float((own > threshold).mean()),
            "ood": {name: detection_numbers(own, scores_of(score, outputs)) for name, outputs in outside.items()},
        }


def ready_scores(g: Guard, fitting: Outputs, labels: torch.Tensor, calibration: Outputs) -> Iterator[Score]:
    """The guard's own score, and the others fitted on the same network; combined ones take half of the calibration."""
    yield g.module.score
    own = "+".join(part.name for part in g.module.score.parts())
    learned = any(part.trained_by for part in g.module.score.parts())
    others = [f"{own}+{other}" for other in COMBINED] if learned else FITTED  # the network below is plain's
    for name in others:
        if name == own:
            continue
        score = carried_over(create_score(name), g.module.score)
        score.fit(fitting.features, fitting.logits, labels, g.module.classifier.last_layer(), fitting.feature_map)
        if score.takes_held_out:
            n = len(calibration.features) // 2
            score.settle(*(part[:n] if part is not None else None for part in calibration))
        yield score


def _second_half(outputs: Outputs) -> Outputs:
    n = len(outputs.features) // 2
    return Outputs(*(part[n:] if part is not None else None for part in outputs))


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


def main() -> None:
    """Parse, train, measure, write after every method."""
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
        ood = {f.stem: load(f, preprocess=test.preprocess, all_classes=False) for f in files}
        ood = without_shared_classes(ood, a.outliers)
    path = RESULTS / f"detection_{a.name or a.kind}.json"
    settings = {"epochs": a.epochs, "backbone": a.backbone, "test": a.test and Path(a.test).name, "sets": list(ood)}
    record = {"benchmark": "detection", "settings": settings, "machine": machine(), "near": near, "rows": []}
    if path.exists() and json.loads(path.read_text())["settings"] == settings:
        record["rows"] = json.loads(path.read_text())["rows"]
    for seed in range(a.seeds):
        for recipe in recipes(a.outliers):
            if a.only and recipe.name not in a.only:
                continue
            if any((r["method"], r["seed"]) == (recipe.name, seed) for r in record["rows"]):
                continue
            record["rows"] += list(rows(recipe, data, test, ood, a, seed))
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
            path.with_suffix(".md").write_text(report(record))
    print(report(record))


if __name__ == "__main__":
    main()
