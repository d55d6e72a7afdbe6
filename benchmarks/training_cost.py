"""What a training method costs: its step against a plain one, in ood-guard's own loop.

    python -m benchmarks.training_cost            # about 5 minutes on 2 cores; results/training_cost.json and .md
    python -m benchmarks.training_cost --quick    # a minute, to the terminal only

WRN-16-2 at 32 pixels, 10 classes, batches of 128, D = 128, whatever precision the loop chooses on this machine. All
methods keep their defaults and are in the stage that costs (outliers on, VOS's queues full), each with a network of
its own; their steps are interleaved. Images and outliers are random uint8 arrays: time does not depend on them. A step
is everything the loop does for a batch: gather, augment, forward, synthesise, losses, backward, update.

    plain         cross-entropy; the second copy "A/A" shows how far from 1 a ratio strays by chance
    vos           class Gaussians, the least likely of 10,000 draws per class drawn by their exact law
    vos, naive    the same with the 10,000 draws made, as published
    oe            256 outlier images per 128: three times the images, by definition
    mim           128 averages of 10 images: twice the images; batch norm frozen, as in its fine-tuning stage
    npos          noise around the boundary points of 2 of the 10 classes, an MLP, and the hypersphere head
    hypersphere   plain with that head
    energy_ft     256 outlier images per 128, as oe
    ceda          128 noise images: twice the images, and what making them takes
    acet, 4 steps 4 of the 40 steps of its attack: 5 forward and 4 backward passes of 128 images more
    cosine        plain with the cosine head
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.cores import available_cores
from guard.data import ImageData, load
from guard.graph.module import GuardModule
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from guard.manifest import Normalisation
from guard.scores import create_score
from train import methods as _methods  # noqa: F401  (registers them)
from train.classifiers.fresh import build_classifier
from train.engine.loader import Feed
from train.engine.precision import cpu_has_bf16
from train.engine.stage_run import StageRun
from train.methods import get_method
from train.methods.base import Method, MethodContext
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.features.class_gaussian import ClassGaussian
from train.outliers.features.knn_boundary import KNNBoundary
from train.runs.request import TrainConfig

RESULTS = Path(__file__).parent / "results"
CLASSES, BATCH, PIXELS, IMAGES = 10, 128, 32, 12_800
GOALS = {"vos": 1.05, "npos": 1.15}
LR = 0.01


class NaiveClassGaussian(ClassGaussian):
    """VOS as published: `draws` vectors per class and step, the `select` of lowest density kept."""

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        means, covariance = self.queue.gaussians()
        jitter = self.jitter * torch.eye(len(covariance), dtype=covariance.dtype)
        kept = []
        for mean in means.float():
            gaussian = torch.distributions.MultivariateNormal(mean, (covariance + jitter).float())
            drawn = gaussian.rsample((self.draws,))
            kept.append(drawn[gaussian.log_prob(drawn).topk(self.select, largest=False).indices])
        return Outliers(torch.cat(kept), "naive", ready=self.queue.full())


def random_images(count: int, seed: int) -> ImageData:
    """Noise of `CLASSES` balanced classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, PIXELS, PIXELS, 3), dtype=np.uint8)
    return load((images, np.arange(count) % CLASSES))


@dataclass(frozen=True)
class Contender:
    """A row of the table. `images` per step, in units of the in-distribution batch."""

    name: str
    method: str
    head: str = "linear"
    naive: bool = False
    images: int = 1
    options: dict[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender("plain", "plain"),
    Contender("A/A", "plain"),
    Contender("vos", "vos"),
    Contender("vos, naive", "vos", naive=True),
    Contender("npos", "npos", head="hypersphere"),
    Contender("hypersphere", "plain", head="hypersphere"),
    Contender("oe", "oe", images=3),
    Contender("energy_ft", "energy_ft", images=3),
    Contender("ceda", "ceda", images=2),
    Contender("acet, 4 steps", "acet", images=2, options={"steps": 4}),
    Contender("mim", "mim", images=2),
    Contender("cosine", "plain", head="cosine"),
)


def stage_run(contender: Contender, data: ImageData, outliers: ImageData, backbone: str) -> StageRun:
    """The stage of a method in which its outliers act, ready to step."""
    method_class = get_method(contender.method)
    method: Method = method_class(method_class.Options(**contender.options))
    score = create_score("energy_logistic" if contender.method == "vos" else "energy")
    torch.manual_seed(0)
    classifier = build_classifier(backbone, contender.head, CLASSES, in_chans=3, image_size=PIXELS)
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    module = GuardModule(classifier.to(memory_format=torch.channels_last), score, normalisation)
    device = torch.device("cpu")
    context = MethodContext(
        num_classes=CLASSES,
        num_features=classifier.num_features,
        map_shape=None,
        class_counts=(len(data) // CLASSES,) * CLASSES,
        epochs=method.epochs,
        lr=LR,
        batch_size=BATCH,
        seed=0,
        device=device,
        outliers={outliers: 1.0} if method.wants_outliers == "required" else None,
        initialised=False,
        score=score,
    )
    config = TrainConfig(
        method=contender.method,
        backbone=backbone,
        head=contender.head,
        score=score.name,
        epochs=method.epochs,
        batch_size=BATCH,
        lr=LR,
        image_size=PIXELS,
        calibration=0,
        test=0,
        data_fingerprint=data.fingerprint,
    )
    stage = method.stages(context)[-1]
    if contender.naive and isinstance(stage.synthesiser, ClassGaussian):
        drawn = stage.synthesiser
        made = NaiveClassGaussian(
            CLASSES, classifier.num_features, queue=drawn.queue.size, draws=drawn.draws, select=drawn.select
        )
        stage = replace(stage, synthesiser=made)
    run = StageRun(module, stage, 0, Feed(data), config, device)
    run.prepare(PrepareContext(module, data, Path(), 0, device))
    return run


def endless_step(run: StageRun) -> Callable[[], Any]:
    """A closure that makes the run's next step, in the state that a long run is in."""
    generator = torch.Generator().manual_seed(0)
    run.set_modes()
    if isinstance(run.synthesiser, ClassGaussian | KNNBoundary):
        size = run.synthesiser.queue.size
        labels = torch.arange(CLASSES).repeat(size)
        run.synthesiser.observe(torch.randn(len(labels), run.classifier.num_features).abs(), labels)
    step = 0
    batches: Iterator[IDBatch] = iter(())

    def call() -> None:
        nonlocal step, batches
        if step % run.epochs.steps == 0:
            epochs = run.epochs
            batches = epochs.source.batches(epochs.order(step // epochs.steps), epochs.batch_size, run.device)
            run.synthesiser.start_epoch(epochs.steps, generator)
        run.step(next(batches), generator, True, step, run.regularisers)
        step += 1

    return call


def table(timings: dict[str, Timing]) -> str:
    """Markdown: milliseconds, ratio to plain, and the same per image that went through the network."""
    lines = ["| method | step, ms | step / plain | images per step | per image / plain |", "|" + " --- |" * 5]
    for contender in CONTENDERS:
        if contender.name not in timings:
            continue
        t = timings[contender.name]
        ratio = f"{t.ratio:.3f} ({t.low:.3f}-{t.high:.3f})"
        per_image = f"{t.ratio / contender.images:.3f}"
        row = (contender.name, f"{t.seconds * 1e3:.1f}", ratio, str(contender.images * BATCH), per_image)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any], timings: dict[str, Timing]) -> str:
    """The .md file beside the .json."""
    settings, facts = result["settings"], result["machine"]
    goals = ", ".join(f"{name} at most {most}" for name, most in GOALS.items())
    return f"""# Training cost: one step against a plain one

{settings["backbone"]} at {PIXELS} pixels, {CLASSES} classes, batch {BATCH}, {settings["precision"]},
{settings["threads"]} threads. Median (quartiles) of {settings["rounds"]} per-round ratios;
`benchmarks/training_cost.py` says what is compared. Goals: {goals}.

{describe(facts)}; load {facts["load"]} at the start

{table(timings)}
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default="wrn16_2")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument(
        "--only", nargs="+", choices=[c.name for c in CONTENDERS], help="of the others, for development"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--round-s", type=float, default=0.3, help="least seconds per method and round")
    parser.add_argument("--quick", action="store_true", help="5 rounds; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_cost.json")
    args = parser.parse_args()
    rounds = 5 if args.quick else args.rounds
    torch.set_num_threads(args.threads)
    contenders = [c for c in CONTENDERS if not args.only or c.name in ("plain", "A/A", *args.only)]
    began, facts = time.perf_counter(), machine()
    data, outliers = random_images(IMAGES, 0), random_images(2 * IMAGES, 1)
    calls = {c.name: endless_step(stage_run(c, data, outliers, args.backbone)) for c in contenders}
    timings = interleave(calls, rounds=rounds, round_s=args.round_s)
    settings = {
        "backbone": args.backbone,
        "pixels": PIXELS,
        "classes": CLASSES,
        "batch": BATCH,
        "rounds": rounds,
        "round_s": args.round_s,
        "threads": torch.get_num_threads(),
        "precision": "bf16 autocast" if cpu_has_bf16() else "float32",
        "seconds": round(time.perf_counter() - began),
    }
    result = {
        "benchmark": "training_cost",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "contenders": [{**asdict(c), **asdict(timings[c.name])} for c in contenders],
    }
    if args.quick:
        print(table(timings))
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result, timings))
        print(args.out.with_suffix(".md").read_text())
    print(f"{settings['seconds']} s")


if __name__ == "__main__":
    main()
