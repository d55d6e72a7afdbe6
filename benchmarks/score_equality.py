"""Are the scores what they say they are? Every fitted score on real images against independent implementations.

    python -m benchmarks.score_equality --run runs/plain --train cifar10/train.parquet --test cifar10/test.parquet \\
        --ood ood/

The classifier of a run folder shows its features and logits of the training images (everything is fitted to those),
of the test images and of each OOD set. Each of our scores is fitted in batches, as guard.fit does, and compared with
pytorch-ood and with the slow float64 formulas of tests/references (`independent_scores`); ODIN and Gram, which read
images, are compared on the first --images of each set, Gram fitted to four times as many. Results:
benchmarks/results/score_equality.json and .md.

difference   largest |ours - theirs| over the test and OOD images
relative     the same as a share of |theirs|, or of the standard deviation of the test images' scores where that is
             larger: scores that cross zero have no other scale
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import guard
from benchmarks.independent_image_scores import gram, odin
from benchmarks.independent_scores import CHECKS, PYTORCH_OOD, Check, Fitting, Taken
from guard.data import ImageData, load
from guard.detector import Guard
from guard.evaluation import metrics
from guard.graph.module import GuardModule
from guard.heads import LastLayer
from guard.latency.machine import describe, machine
from guard.scores import create_score, get_score, list_scores

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
TEST = "test"


@torch.inference_mode()
def extracted(module: GuardModule, data: ImageData) -> Taken:
    """Outputs of every image; labels are -1 where there are none."""
    features, logits = [], []
    for images, _ in data.batches(256):
        outputs = module.outputs(torch.from_numpy(np.ascontiguousarray(images)))
        features.append(outputs.features)
        logits.append(outputs.logits)
    labels = np.full(len(data), -1) if data.labels is None else data.labels
    return Taken(torch.cat(features).clone(), torch.cat(logits).clone(), torch.tensor(labels))


def ours(check: Check, fit: Fitting, sets: dict[str, Taken], batch: int = 256) -> dict[str, np.ndarray]:
    """Our scores of each set, fitted and computed in batches."""
    score, taken = create_score(check.score, **check.options), fit.taken
    score.begin(taken.features.shape[1], taken.logits.shape[1], LastLayer(fit.weight, fit.bias))
    for rows in torch.arange(len(taken.labels)).split(batch):
        score.update(*(part[rows] for part in taken))
    score.finish()
    with torch.inference_mode():
        return {
            name: torch.cat([score(*pair) for pair in zip(x.features.split(batch), x.logits.split(batch), strict=True)])
            .double()
            .numpy()
            for name, x in sets.items()
        }


def compared(mine: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, Any]:
    """Largest differences over all sets, and the AUROC of each OOD set by both."""
    spread = float(np.std(other[TEST]))
    difference = {name: np.abs(mine[name] - other[name]) for name in mine}
    relative = [(difference[name] / np.maximum(np.abs(other[name]), spread)).max() for name in mine]
    return {
        "difference": float(max(values.max() for values in difference.values())),
        "relative": float(max(relative)),
        "auroc": {
            name: {
                "ours": metrics.auroc(mine[TEST], mine[name]),
                "theirs": metrics.auroc(other[TEST], other[name]),
            }
            for name in mine
            if name != TEST
        },
    }


def table(record: dict[str, Any]) -> str:
    """Markdown."""
    sets = list(record["rows"][0]["auroc"])
    head = ["score", "options", "against", "correction of theirs", "difference", "relative", *sets]
    lines = [
        "# Are the scores what they say they are?",
        "",
        describe(record["machine"]),
        "",
        f"{record['settings']['backbone']}, {record['settings']['classes']} classes, fitted to "
        f"{record['settings']['train']:,} images. AUROC x 100: ours / theirs, one number where they agree to 1e-4.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in record["rows"]:
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items()) or "default"
        cells = [f"`{row['score']}`", options, row["against"], row["correction"]]
        cells += [f"{row['difference']:.1e}", f"{row['relative']:.1e}"]
        for name in sets:
            a, b = row["auroc"][name]["ours"], row["auroc"][name]["theirs"]
            cells.append(f"{100 * a:.2f}" if abs(a - b) < 1e-4 else f"{100 * a:.2f} / {100 * b:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    left = ", ".join(f"`{name}` ({why})" for name, why in record["left_out"].items())
    return "\n".join([*lines, "", f"Left out: {left}. The tests compare them with formulas on random numbers.", ""])


def measured(g: Guard, train: ImageData, sets: dict[str, ImageData], images: int, only: list[str]) -> dict[str, Any]:
    """Everything that is written down."""
    last = g.module.classifier.last_layer()
    if last is None or last.bias is None or last.scale is not None:
        raise SystemExit("the run needs a linear last layer with a bias: a plain one")
    fit = Fitting(extracted(g.module, train), last.weight.cpu().float(), last.bias.cpu().float())
    taken = {name: extracted(g.module, data) for name, data in sets.items()}
    rows = []
    for check in CHECKS:
        if only and check.score not in only:
            continue
        began = time.perf_counter()
        scorer: Callable[[Taken], np.ndarray] = check.build(fit)
        other = {name: np.asarray(scorer(x), np.float64) for name, x in taken.items()}
        row = {"score": check.score, "against": check.against, "options": check.options}
        rows.append(row | {"correction": check.correction} | compared(ours(check, fit, taken), other))
        log.info("%s, %s: %.1e (%.0f s)", *(rows[-1][k] for k in ("score", "against", "relative")), _since(began))
    first = {name: data.take(np.arange(min(images, len(data)))) for name, data in sets.items()}
    fitting = train.take(np.arange(min(4 * images, len(train))))
    for compare in (odin, gram):
        name = compare.__name__
        if only and name not in only:
            continue
        began = time.perf_counter()
        mine, other, correction = compare(g, fitting, first)
        row = {"score": name, "against": PYTORCH_OOD, "options": {}, "correction": correction}
        rows.append(row | compared(mine, other))
        log.info("%s: %.1e (%.0f s)", name, rows[-1]["relative"], _since(began))
    checked = {row["score"] for row in rows}
    return {
        "settings": {
            "backbone": g.manifest.backbone,
            "classes": len(g.class_names),
            "train": len(train),
            "sets": {name: len(data) for name, data in sets.items()},
            "images": images,
        },
        "rows": rows,
        "left_out": {name: _why_not(name) for name in list_scores() if name not in checked},
    }


def _why_not(name: str) -> str:
    """Why a plain classifier cannot show that the score is right."""
    if get_score(name).trained_by:
        return f"learned by method {get_score(name).trained_by}"
    if "layer maps" in get_score(name).needs:
        return "reads layers: compared with its formula in the tests"
    return "of a head with an extra class" if "extra class" in get_score(name).needs else "not asked for"


def _since(began: float) -> float:
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run folder of guard.train with a linear head")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--ood", required=True, help="a folder of Parquet files")
    parser.add_argument("--images", type=int, default=500, help="of each set, for the scores that read images")
    parser.add_argument("--only", nargs="*", default=[], help="scores to compare; prints and writes nothing")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    g = guard.load(a.run, device="cpu")
    preprocess = g.manifest.preprocess
    sets = {TEST: load(a.test, preprocess=preprocess)}
    for path in sorted(Path(a.ood).glob("*.parquet")):
        sets[path.stem] = load(path, preprocess=preprocess, labelled=False)
    result = measured(g, load(a.train, preprocess=preprocess), sets, a.images, a.only)
    record = {"benchmark": "score_equality", "machine": machine(), **result}
    print(table(record))
    if not a.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "score_equality.json").write_text(json.dumps(record, indent=1) + "\n")
        (RESULTS / "score_equality.md").write_text(table(record))


if __name__ == "__main__":
    main()
