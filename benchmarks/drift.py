"""Drift: how often does ordinary traffic raise the alarm, and how soon does traffic with OOD images in it?

    python -m benchmarks.drift GUARD --test cifar10/test.parquet --ood ood/

GUARD is an exported guard of the same classes that saw none of the test images; the committed result's is phase_mix of
seed 0 of cifar10.yaml with the score energy+fdbd+mahalanobis++, by `guard fit` and `guard export`. Its scores of all
test and OOD images are computed once (kept beside it). Then, for every stream, the test images are shuffled and cut
anew into calibration images and stream, which makes them exchangeable:

- ordinary: 1,000 streams of what is left; how many ever raise the alarm at alpha 1 %, and the exact 95 % interval
  that the count lies in if the chance is 1 %.
- for comparison, the same bets on p-values that compare with the calibration images alone.
- mixed: each image is OOD with a chance of 20 %, from the first image on, or after 3,000 ordinary ones; how many
  images until the alarm.

Results go to benchmarks/results/drift.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import guard
from guard.data import load
from guard.latency.machine import describe, machine
from guard.monitoring.betting import BINS, bet, first_stakes
from guard.monitoring.monitor import DriftMonitor

RESULTS = Path(__file__).parent / "results"
SHARE = 0.2


def scores_of(g: guard.Guard, test: Path, ood: list[Path], kept: Path, most: int) -> dict[str, np.ndarray]:
    """ood_score of every test image, and of `most` images of each OOD set, by the file's name; computed once."""
    if kept.exists():
        return dict(np.load(kept))
    found = {}
    for path in (test, *ood):
        limit = {} if path == test else {"max_images": most, "draw": 0}
        data = load(path, preprocess=g.manifest.preprocess, labelled=False, **limit)
        found[path.stem] = g.predict_batches(batch for batch, _ in data.batches(256)).ood_score
    np.savez(kept, **found)
    return found


def naive_alarm(calibration: np.ndarray, stream: np.ndarray, alpha: float) -> bool:
    """The same bets on the p-values of the verdicts, smoothed: right if the calibration set were infinite."""
    n, stakes, bins = len(calibration), first_stakes(), np.zeros((2, BINS))
    above = n - np.searchsorted(np.sort(calibration), stream)
    p = (above + np.random.default_rng(0).random(len(stream))) / (n + 1)
    for start in range(0, len(p), 256):
        if bet(p[start : start + 256], start, stakes, bins).max() >= -math.log(alpha):
            return True
    return False


def ordinary(scores: np.ndarray, a: argparse.Namespace) -> dict[str, Any]:
    """Streams of test images alone."""
    alarms = naive = 0
    for i in range(a.streams):
        calibration, stream = cut(scores, a.calibration, i)
        monitor = DriftMonitor(calibration, alpha=a.alpha, seed=i)
        monitor.take(stream)
        alarms += monitor.alarm
        naive += i < a.mixed_streams and naive_alarm(calibration, stream, a.alpha)
    low, high = (int(x) for x in stats.binom.ppf([0.025, 0.975], a.streams, a.alpha))
    return {
        "streams": a.streams,
        "length": len(scores) - a.calibration,
        "alarms": alarms,
        "expected_at_most": [low, high],
        "naive_alarms": naive,
        "naive_streams": min(a.mixed_streams, a.streams),
    }


def mixed(scores: np.ndarray, draw: Callable[[np.random.Generator, int], np.ndarray], before: int, a: Any) -> Any:
    """Delays in images from the change to the alarm; a stream without one counts as infinite."""
    delays, early = [], 0
    for i in range(a.mixed_streams):
        calibration, stream = cut(scores, a.calibration, i)
        random = np.random.default_rng(10_000 + i)
        other = random.random(len(stream)) < SHARE
        other[:before] = False
        stream[other] = draw(random, int(other.sum()))
        monitor = DriftMonitor(calibration, alpha=a.alpha, seed=i)
        for start in range(0, len(stream), 250):
            monitor.take(stream[start : start + 250])
            if monitor.alarm:
                break
        at = monitor.report().alarm_at
        if at is not None and at <= before:
            early += 1
            continue
        delays.append(math.inf if at is None else at - before)
    quantiles = np.quantile(delays, [0.1, 0.5, 0.9], method="higher").tolist()
    return {"streams": len(delays), "before": before, "delay_10_50_90": quantiles, "false_alarms_before": early}


def cut(scores: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n for calibration and the rest, in random order."""
    shuffled = np.random.default_rng(seed).permutation(scores)
    return shuffled[:n], shuffled[n:]


def table(record: dict[str, Any]) -> str:
    s, o = record["settings"], record["ordinary"]
    low, high = o["expected_at_most"]
    lines = [
        "| 20 % of the images are | AUROC | from the first image | after 3,000 ordinary ones |",
        "|---|---|---|---|",
    ]
    for name, row in record["mixed"].items():
        cells = [f"{int(m['delay_10_50_90'][1])} ({_range(m)})" for m in row["delays"]]
        lines.append(f"| {name} | {100 * row['auroc']:.1f} | " + " | ".join(cells) + " |")
    rows = "\n".join(lines)
    return f"""# Drift

{record["guard"]}, score {record["score"]}.
{s["calibration"]:,} calibration images and streams of {o["length"]:,}, cut anew from CIFAR-10's test images for every
stream; alpha {s["alpha"]:.0%}.

**False alarms:** {o["alarms"]} of {o["streams"]:,} ordinary streams ever raised the alarm. At a chance of exactly 1 %
it would be {low} to {high} in 95 of 100 such runs. The same bets on the verdicts' own p-values, which compare with the
calibration images alone: {o["naive_alarms"]} of {o["naive_streams"]:,}.

**Delay** in images from the change to the alarm, median (10 % to 90 % of {s["mixed_streams"]} streams):

{rows}

{describe(record["machine"])}
"""


def _range(row: dict[str, Any]) -> str:
    return " to ".join("never" if math.isinf(d) else str(int(d)) for d in row["delay_10_50_90"][::2])


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(stats.mannwhitneyu(outside, inside).statistic / len(inside) / len(outside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guard", type=Path, help="the guard, exported")
    parser.add_argument("--test", type=Path, required=True, help="in-distribution test images, Parquet")
    parser.add_argument("--ood", type=Path, required=True, help="folder of Parquet files, a set each")
    parser.add_argument("--about", help="what the guard is, for the table; default its backbone and method")
    parser.add_argument("--most", type=int, default=2000, help="images of an OOD set, at most, drawn at random")
    parser.add_argument("--calibration", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--mixed-streams", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.01)
    a = parser.parse_args()
    started, g = time.perf_counter(), guard.load(a.guard, device="cpu")
    scores = scores_of(g, a.test, sorted(a.ood.glob("*.parquet")), a.guard.with_suffix(".scores.npz"), a.most)
    inside = scores.pop(a.test.stem)
    sets = {**scores, "all of them": np.concatenate(list(scores.values()))}
    record: dict[str, Any] = {
        "settings": {k: v for k, v in vars(a).items() if isinstance(v, int | float)},
        "guard": a.about or f"{g.manifest.backbone}, method {g.manifest.method}",
        "score": "+".join(g.manifest.score_options.get("parts", (g.manifest.score,))),
        "ordinary": ordinary(inside, a),
        "mixed": {},
        "machine": machine(),
    }
    for name, outside in sets.items():
        delays = [mixed(inside, lambda r, n, o=outside: r.choice(o, n), before, a) for before in (0, 3000)]
        record["mixed"][name] = {"auroc": auroc(inside, outside), "delays": delays}
    record["seconds"] = round(time.perf_counter() - started, 1)
    (RESULTS / "drift.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "drift.md").write_text(table(record))
    print(table(record))


if __name__ == "__main__":
    main()
