"""Exported guards in every precision on the 10,000 test images of CIFAR-10: what they decide, and what they cost.

    python -m benchmarks.precision --root ../../shared/data    # results/precision.json and .md
    python -m benchmarks.precision --networks wrn16_2 --only fp32,int8

A network whose run is not under --runs is trained first (`NETWORKS`; some 25 minutes for a WRN-16-2 on one core with
AMX, ten each for the others, which are not trained to their end: it is the file that is judged here, not the network).
A run that is there is taken as it is.

fp32    against torch: largest differences, changed labels and flags
others  against the fp32 file: accuracy, AUROC against near and far OOD images, changed labels and flags; false alarms
        against the interval that the file's own calibration states for so many new images
time    of the guard over the fp32 guard's, and over the bare classifier's in the same precision; one thread, in turns

bf16 runs in OpenVINO, for ONNX Runtime computes none on CPUs; its times are beside OpenVINO's fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import guard
from guard.calibration.by_class import expected_flags
from guard.data import ImageData, load
from guard.detector import Guard
from guard.errors import ExportError
from guard.evaluation.metrics import auroc
from guard.latency.bare import bare_run
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from guard.verdict import Verdicts

log = logging.getLogger("ood_guard")
RESULTS = Path(__file__).parent / "results"
NETWORKS: dict[str, dict[str, Any]] = {
    "wrn16_2": {"epochs": 15, "lr": 0.3},
    "resnet18_small": {"epochs": 1},
    "vit_tiny_patch16_224": {"image_size": 64, "epochs": 1, "lr": 0.02},
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
NEAR = ("tiny_imagenet", "tiny_imagenet_sharp")
FAR = ("flowers", "mnist", "mnist_m", "textures")
RUNTIME = {"fp32": "onnxruntime", "fp16": "onnxruntime", "bf16": "openvino", "int8": "onnxruntime"}
LOST_ACCURACY, LOST_AUROC = 0.005, 0.005
GOALS = {"wrn16_2": 0.65, "resnet18_small": 0.40}  # int8's share of fp32's time, where the processor has VNNI


@dataclass(frozen=True)
class Decisions:
    """What one file does with the test images.

    Attributes:
        accuracy, false_alarms: shares. alarms_low, alarms_high: the interval stated for that many images.
        near, far: AUROC, the mean over the sets.
        flips: labels or flags other than those of `against`. difference: the largest of a score.
        kept: layers left in float32 of `layers`.
    """

    network: str
    precision: str
    runtime: str
    against: str
    images: int
    accuracy: float
    near: float
    far: float
    false_alarms: float
    alarms_low: float
    alarms_high: float
    flips: int
    difference: float
    kept: int
    layers: int
    mib: float


def trained(name: str, args: argparse.Namespace) -> Path:
    """The network's run folder; trained where it is missing."""
    run: Path = args.runs / name
    if not (run / "guard.json").exists():
        log.info("training %s", name)
        guard.train(args.root / "cifar10/train.parquet", backbone=name, out=run, resume=run.exists(), **NETWORKS[name])
    return run


def exported(run: Path, precision: str, args: argparse.Namespace) -> Path:
    """The run's file in that precision."""
    path = run / f"{precision}.onnx"
    if not path.exists():  # below fp32 it takes what the run held out of these images for its threshold
        data = None if precision == "fp32" else args.root / "cifar10/train.parquet"
        guard.export(run, path, precision=precision, data=data)  # type: ignore[arg-type]
    return path


class Sets:
    """The test images and OOD images at one guard's size, decoded once."""

    def __init__(self, g: Guard, root: Path) -> None:
        self.test = self._open(root / "cifar10/test.parquet", g)
        self.ood = {name: self._open(root / f"ood/{name}.parquet", g) for name in (*NEAR, *FAR)}

    @staticmethod
    def _open(path: Path, g: Guard) -> ImageData:
        return load(path, preprocess=g.manifest.preprocess)

    def scored(self, g: Guard, which: ImageData) -> Verdicts:
        """Its verdicts of all images of a set."""
        return g.predict_batches(batch for batch, _ in which.batches(100))


def decisions(
    network: str, precision: str, g: Guard, sets: Sets, against: tuple[str, Verdicts], mib: float
) -> Decisions:
    """`g` on all images, beside the verdicts of another side on the test images."""
    found, (name, other) = sets.scored(g, sets.test), against
    scores = {key: float(auroc(found.ood_score, sets.scored(g, images).ood_score)) for key, images in sets.ood.items()}
    calibration, change = g.manifest.calibration, g.manifest.precision_change
    assert calibration is not None  # a run is calibrated
    low, high = expected_flags(found.label, calibration) or (0, len(found))
    count = len(found)
    return Decisions(
        network=network,
        precision=precision,
        runtime=g.runtime.name,
        against=name,
        images=count,
        accuracy=float((found.label == sets.test.labels).mean()),
        near=float(np.mean([scores[key] for key in NEAR])),
        far=float(np.mean([scores[key] for key in FAR])),
        false_alarms=float(found.is_ood.mean()),
        alarms_low=low / count,
        alarms_high=high / count,
        flips=int(((found.is_ood != other.is_ood) | (found.label != other.label)).sum()),
        difference=float(np.abs(found.ood_score - other.ood_score).max()),
        kept=len(change.layers_in_fp32) if change else 0,
        layers=change.layers if change else 0,
        mib=mib,
    )


def judged(network: str, run: Path, paths: dict[str, Path]) -> Iterator[Decisions]:
    """Every file of one network; fp32 beside torch, the others beside fp32."""
    source = guard.load(run)
    sets = Sets(source, ARGS.root)
    log.info("%s in torch", network)
    exact = ("torch", sets.scored(source, sets.test))
    for precision, path in paths.items():
        g = guard.load(path, runtime=RUNTIME[precision], device="cpu")
        log.info("%s in %s", network, precision)
        yield decisions(network, precision, g, sets, exact, path.stat().st_size / 2**20)
        if precision == "fp32":
            exact = ("fp32", sets.scored(g, sets.test))


def bare(path: Path, batch: np.ndarray) -> Callable[[], Any] | None:
    """A run of the file's classifier alone on a batch; None where it cannot be cut out."""
    try:
        run, _, _ = bare_run(path, "cpu", 1)
    except ExportError as error:
        log.warning("%s: %s", path, error)
        return None
    return partial(run, batch)


def timed(network: str, paths: dict[str, Path], batches: tuple[int, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """Every file and its bare classifier in turns, by batch size; ratios are over the fp32 guard's time."""
    guards = {key: guard.load(path, runtime=RUNTIME[key], device="cpu", threads=1) for key, path in paths.items()}
    if "bf16" in paths:
        guards["fp32, openvino"] = guard.load(paths["fp32"], runtime="openvino", device="cpu", threads=1)
    p = guards["fp32"].manifest.preprocess
    for size in batches:
        images = np.random.default_rng(0).integers(0, 256, (size, p.height, p.width, p.channels), dtype=np.uint8)
        calls: dict[str, Callable[[], Any]] = {}
        for key, g in guards.items():
            calls[key] = lambda g=g, images=images: g.runtime.run(images)  # type: ignore[misc]
        for key in ("fp32", "int8"):
            if key in paths and (call := bare(paths[key], images)) is not None:
                calls[f"bare {key}"] = call
        calls["A/A"] = calls["fp32"]
        timings = interleave(calls, rounds=rounds, round_s=0.1)
        yield {"network": network, "batch": size, "timings": {key: asdict(one) for key, one in timings.items()}}


def decided_table(rows: list[Decisions]) -> str:
    """Markdown."""
    lines = [
        "| network | precision | runtime | against | flips | largest score difference | accuracy | near | far | "
        "false alarms | stated interval | layers in float32 | MiB |",
        "|" + " --- |" * 13,
    ]
    for r in rows:
        inside = "" if r.alarms_low <= r.false_alarms <= r.alarms_high else " (outside)"
        kept = f"{r.kept} of {r.layers}" if r.layers else ""
        lines.append(
            f"| {r.network} | {r.precision} | {r.runtime} | {r.against} | {r.flips} | {r.difference:.2g} | "
            f"{100 * r.accuracy:.2f} | {100 * r.near:.2f} | {100 * r.far:.2f} | {100 * r.false_alarms:.2f} | "
            f"{100 * r.alarms_low:.2f}-{100 * r.alarms_high:.2f}{inside} | {kept} | {r.mib:.1f} |"
        )
    return "\n".join(lines)


def timed_table(records: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = ("A/A", "int8", "fp16", "bf16", "fp32, openvino")
    lines = [
        "| network | batch | fp32, ms | " + " | ".join(names) + " | guard / bare, fp32 | guard / bare, int8 |",
        "|" + " --- |" * (5 + len(names)),
    ]
    for record in records:
        found = {key: Timing(**value) for key, value in record["timings"].items()}
        cells = [
            f"{found[key].ratio:.3f} ({found[key].low:.3f}-{found[key].high:.3f})" if key in found else ""
            for key in names
        ]
        for key in ("fp32", "int8"):
            both = key in found and f"bare {key}" in found
            cells.append(f"{found[key].ratio / found[f'bare {key}'].ratio:.3f}" if both else "")
        lines.append(
            f"| {record['network']} | {record['batch']} | {1e3 * found['fp32'].seconds:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    rows = [Decisions(**row) for row in result["decisions"]]
    goals = ", ".join(f"{goal:g} ({name})" for name, goal in GOALS.items())
    return f"""# Precisions: what exported guards decide on 10,000 images, and their time

Percent. Against torch for fp32, against the fp32 file for the others, each at its own threshold.
Near: {", ".join(NEAR)}; far: {", ".join(FAR)}; means of AUROC.
Allowed below fp32: {100 * LOST_ACCURACY:g} points of accuracy, {100 * LOST_AUROC:g} of AUROC.
{result["about"]}

{decided_table(rows)}

## Time

Over the fp32 guard's in ONNX Runtime, one thread, median (quartiles) of {result["rounds"]} ratios of one round each.
A/A is the fp32 guard once more. Goal for int8 where the processor has VNNI: {goals}.

{timed_table(result["times"])}

{describe(result["machine"])}
"""


def main() -> None:
    """Parse, train what is missing, export, judge, time, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = [name for name in ARGS.networks.split(",") if name]
    which = [one for one in ARGS.only.split(",") if one]
    result: dict[str, Any] = {
        "benchmark": "precision",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "rounds": ARGS.rounds,
        "about": ARGS.about,
        "decisions": [],
        "times": [],
    }
    if (kept := ARGS.out.with_suffix(".json")).exists():  # of other networks, measured before
        before = json.loads(kept.read_text())
        result["about"] = ARGS.about or before["about"]
        for key in ("decisions", "times"):
            result[key] = [row for row in before[key] if row["network"] not in names]
    for name in names:
        run = trained(name, ARGS)
        paths = {precision: exported(run, precision, ARGS) for precision in which}
        result["decisions"] += [asdict(row) for row in judged(name, run, paths)]
        result["times"] += list(timed(name, paths, tuple(ARGS.batches), ARGS.rounds))
        ARGS.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        ARGS.out.with_suffix(".md").write_text(report(result))
    print(ARGS.out.with_suffix(".md").read_text())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder with cifar10/ and ood/")
    parser.add_argument("--runs", type=Path, default=Path("runs/precision"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--only", default=",".join(PRECISIONS), help="precisions; fp32 among them")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--about", default="", help="a line for the .md, such as how these runs were trained")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    main()
