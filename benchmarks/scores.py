"""Our scores beside pytorch-ood's: the same numbers, at what share of the time and the memory?

    python -m benchmarks.scores --run runs/plain --train cifar10/train.parquet --test cifar10/test.parquet --ood ood/

Without --run a plain WRN-16-2 is trained first (15 epochs, under runs/scores). About 6 minutes on 2 otherwise idle
cores with a run. Results: benchmarks/results/scores.json and .md.

Both sides get the same features and logits in memory. They are fitted to all training images, ours in batches of 2,048
as guard.fit does, theirs at once as theirs are; then they score the test images in batches of 2,500. Options are set
equal (`independent_scores`, which also says what was done to their numbers, and docs/scores.md why). Calls of both are
interleaved; a time's ratio is the median of the ratios within a round.

The second table is `bank_search`: a bank of 50,000 x 512 random numbers. The goals are for this one.
"""

from __future__ import annotations

import os

# three OpenMP runtimes share this process; one that spins when it has nothing to do starves the other two
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import guard
from benchmarks.bank_search import BANK, WIDTH, bank_table, knn_rows, mahalanobis_rows
from benchmarks.independent_scores import CHECKS, FORMULA, PYTORCH_OOD, Check, Fitting, Taken
from benchmarks.memory import peak_above
from benchmarks.score_equality import TEST, extracted
from guard.cores import available_cores
from guard.data import ImageData, load
from guard.detector import Guard
from guard.evaluation import metrics
from guard.heads import LastLayer
from guard.latency.interleave import interleave
from guard.latency.machine import describe, machine
from guard.scores import Score, create_score

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
FIT_BATCH, SCORE_BATCH = 2048, 2500
ROUNDS = 9
BUDGET_S = 4.0  # of interleaved rounds per comparison: slow ones get fewer, but 3
SAME = 1e-4  # AUROC
MEASURES = {
    "auroc": metrics.auroc,
    "fpr_at_95_id_tpr": metrics.fpr_at_95_id_tpr,
    "fpr_at_95_ood_tpr": metrics.fpr_at_95_ood_tpr,
}


def compared_checks() -> list[Check]:
    """One comparison per score and options: pytorch-ood where it has the score, else the formula, for our row alone."""
    has = {check.score for check in CHECKS if check.against == PYTORCH_OOD}
    alone = [check for check in CHECKS if check.against == FORMULA and check.score not in has]
    return [check for check in CHECKS if check.against == PYTORCH_OOD] + alone


def fitted(check: Check, fit: Fitting) -> Score:
    """Our score, fitted in batches."""
    score, taken = create_score(check.score, **check.options), fit.taken
    score.begin(taken.features.shape[1], taken.logits.shape[1], LastLayer(fit.weight, fit.bias))
    for part in zip(*(x.split(FIT_BATCH) for x in taken), strict=True):
        score.update(*part)
    score.finish()
    return score


def scores_of(score: Score, taken: Taken) -> np.ndarray:
    """Our ood_scores (N,) in float64, as the independent ones come."""
    return score(taken.features, taken.logits).double().numpy()


def in_batches(scorer: Callable[[Taken], np.ndarray], taken: Taken) -> np.ndarray:
    parts = zip(*(x.split(SCORE_BATCH) for x in taken), strict=True)
    return np.concatenate([scorer(Taken(*part)) for part in parts])


def timed(calls: dict[str, Callable[[], object]], round_s: float = 0.05) -> dict[str, dict[str, float]]:
    """Interleaved timings as records; as many rounds as `BUDGET_S` allows, 3 to `ROUNDS`."""
    began = time.perf_counter()
    for call in calls.values():
        call()
    once = max(time.perf_counter() - began, round_s * len(calls))
    rounds = int(np.clip(BUDGET_S / once, 3, ROUNDS))
    return {name: asdict(timing) for name, timing in interleave(calls, rounds=rounds, round_s=round_s).items()}


def timed_fits(fits: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """The same for fits, one call a round: theirs may be nothing at all, which no block of calls must imitate."""
    return {name: asdict(timing) for name, timing in interleave(fits, rounds=3, round_s=0, block_s=0).items()}


def detection(values: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """OOD set -> AUROC and both FPR95s."""
    inside = values[TEST]
    return {
        name: {measure: function(inside, outside) for measure, function in MEASURES.items()}
        for name, outside in values.items()
        if name != TEST
    }


def compare(check: Check, fit: Fitting, sets: dict[str, Taken]) -> dict[str, Any]:
    """A row of the first table: ours, and theirs where the score is also in pytorch-ood."""
    row: dict[str, Any] = {"score": check.score, "options": check.options}
    test = sets[TEST]
    ours = fitted(check, fit)
    row["ours"] = {"ood": detection({name: in_batches(lambda x: scores_of(ours, x), x) for name, x in sets.items()})}
    fits: dict[str, Callable[[], object]] = {"ours": lambda: fitted(check, fit)}
    calls: dict[str, Callable[[], object]] = {"ours": lambda: in_batches(lambda x: scores_of(ours, x), test)}
    if check.against == PYTORCH_OOD:
        scorer = check.build(fit)
        row["theirs"] = {"ood": detection({name: in_batches(scorer, x) for name, x in sets.items()})}
        row["correction"] = check.correction
        fits = {"theirs": lambda: check.build(fit), **fits}
        calls = {"theirs": lambda: in_batches(scorer, test), **calls}
    scale = 10_000 / len(test.labels)
    fit_times, score_times = timed_fits(fits), timed(calls)
    for side in calls:
        row[side] |= {
            "fit_s": fit_times[side]["seconds"],
            "score_s_per_10000": score_times[side]["seconds"] * scale,
            "fit_mib": peak_above(fits[side]),
            "score_mib": peak_above(calls[side]),
        }
    if "theirs" in row:
        row["fit_ratio"], row["score_ratio"] = fit_times["ours"], score_times["ours"]
        row["auroc_difference"] = max(
            abs(row["ours"]["ood"][name]["auroc"] - row["theirs"]["ood"][name]["auroc"]) for name in row["ours"]["ood"]
        )
    return row


def measured(g: Guard, train: ImageData, sets: dict[str, ImageData], only: list[str]) -> list[dict[str, Any]]:
    """The rows of the first table."""
    last = g.module.classifier.last_layer()
    if last is None or last.bias is None or last.scale is not None:
        raise SystemExit("the run needs a linear last layer with a bias: a plain one")
    log.info("features of %d training images", len(train))
    fit = Fitting(extracted(g.module, train), last.weight.cpu().float(), last.bias.cpu().float())
    taken = {name: extracted(g.module, data) for name, data in sets.items()}
    rows = []
    for check in compared_checks():
        if not only or check.score in only:
            began = time.perf_counter()
            rows.append(compare(check, fit, taken))
            log.info("%s %s: %.0f s", check.score, check.options or "", time.perf_counter() - began)
    return rows


def score_table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the first table: ours / theirs, one number where the AUROC agrees."""
    sets = list(rows[0]["ours"]["ood"])
    head = ["score", "options", *sets, "FPR95 (ID TPR)", "FPR95 (OOD TPR)", "fit, s", "score, ms", "ours / theirs"]
    head += ["memory, MiB: fit", "score"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        sides = [row[side] for side in ("ours", "theirs") if side in row]

        def means(measure: str, sides: list[dict[str, Any]] = sides) -> str:
            return " / ".join(f"{100 * np.mean([r[measure] for r in s['ood'].values()]):.1f}" for s in sides)

        cells = [f"`{row['score']}`", ", ".join(f"{k}={v}" for k, v in row["options"].items()) or "default"]
        for name in sets:
            areas = [side["ood"][name]["auroc"] for side in sides]
            same = abs(areas[0] - areas[-1]) <= SAME
            cells.append(" / ".join(f"{100 * area:.2f}" for area in (areas[:1] if same else areas)))
        cells += [means("fpr_at_95_id_tpr"), means("fpr_at_95_ood_tpr")]
        cells.append(" / ".join(f"{side['fit_s']:.3f}" for side in sides))
        cells.append(" / ".join(f"{1e3 * side['score_s_per_10000']:.2f}" for side in sides))
        ratio = row.get("score_ratio")
        cells.append(f"{ratio['ratio']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-")
        cells += [" / ".join(f"{side[key]:.0f}" for side in sides) for key in ("fit_mib", "score_mib")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings, facts = result["settings"], result["machine"]
    different = [
        f"- `{row['score']}`: {100 * row['auroc_difference']:.2f} points; theirs: {row['correction'] or '-'}."
        for row in result["rows"]
        if row.get("auroc_difference", 0) > SAME
    ]
    return f"""# Scores: ours and pytorch-ood's

{describe(facts)}; pytorch-ood {settings["pytorch_ood"]}; {settings["threads"]} threads;
load {facts["load"]} at the start

{settings["backbone"]}, {settings["classes"]} classes, {settings["train"]:,} training images; ours / theirs with equal
options. AUROC x 100 per OOD set, one number where both agree to {SAME}; both FPR95s are means over the sets. Times per
10,000 images; the ratio is the median (quartiles) of the ratios in interleaved rounds. Memory: peak above what the
process held before. `benchmarks/scores.py` says what is compared.

{score_table(result["rows"])}

AUROC differs by more than {SAME}:

{chr(10).join(different) or "- nowhere."}

## A bank of {BANK:,} x {WIDTH}

ms per call and our share of it (median, quartiles). Error: ours against float64, absolute for knn (squared distances
near 1.7), relative for mahalanobis.

{bank_table(result["banks"])}
"""


def trained(run: str | None, train: str) -> Guard:
    """The guard of a run folder, or a plain one trained now."""
    if run is not None:
        return guard.load(run, device="cpu")
    out = Path("runs/scores/plain")
    if (out / "guard.json").exists():
        return guard.load(out, device="cpu")
    return guard.train(train, method="plain", backbone="wrn16_2", epochs=15, out=out, resume=out.exists(), device="cpu")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run folder of guard.train with a linear head; default: train one")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--ood", required=True, help="a folder of Parquet files")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--only", nargs="*", default=[], help="scores to compare; prints and writes nothing")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from importlib.metadata import version

    began, facts = time.perf_counter(), machine()
    torch.set_num_threads(a.threads)
    g = trained(a.run, a.train)
    preprocess = g.manifest.preprocess
    sets = {TEST: load(a.test, preprocess=preprocess)}
    for path in sorted(Path(a.ood).glob("*.parquet")):
        sets[path.stem] = load(path, preprocess=preprocess, labelled=False)
    train = load(a.train, preprocess=preprocess)
    with torch.inference_mode():
        rows = measured(g, train, sets, a.only)
        banks = knn_rows(a.threads) + mahalanobis_rows()
    settings = {
        "pytorch_ood": version("pytorch-ood"),
        "threads": torch.get_num_threads(),
        "backbone": g.manifest.backbone,
        "classes": len(g.class_names),
        "train": len(train),
        "sets": {name: len(data) for name, data in sets.items()},
        "rounds": ROUNDS,
        "seconds": round(time.perf_counter() - began),
    }
    result = {
        "benchmark": "scores",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "rows": rows,
        "banks": banks,
    }
    print(report(result))
    if not a.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "scores.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "scores.md").write_text(report(result))
    print(f"{settings['seconds']} s")


if __name__ == "__main__":
    main()
