"""What sampling from the built-in diffusion model costs, and how many steps its outliers need.

    python -m benchmarks.synthesis speed                    # about 5 minutes; results/synthesis_speed.json and .md
    python -m benchmarks.synthesis speed --quick            # a rough answer, to the terminal only
    python -m benchmarks.synthesis steps                    # digits; results/synthesis_steps_digits.json and .md
    python -m benchmarks.synthesis steps --train cifar10/train.parquet --test cifar10/test.parquet --ood ood/ \\
        --diffusion-folder runs/cifar/diffusion-s0 --store 5000 --name cifar10

speed: images per second of `BuiltInDiffusion.sample` against a loop over diffusers' own network and scheduler, as
its documentation has it: the same weights, precision, batch, steps and guidance, from noise to uint8 images. Rounds are
interleaved (`interleave`); a second copy of the bare loop shows how far a ratio strays by chance.

steps: one diffusion model, trained first or taken from --diffusion-folder; for each number of steps a store of
label_mixup's outliers and a classifier trained against it, all else equal. AUROC per OOD set, beside plain training.

What it costs to embed images in the conditioning space (NCIS) is `embedding_cost`'s.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import guard
from guard.cores import available_cores
from guard.data import ImageData, load
from guard.demo import images as demo_images
from guard.latency.interleave import interleave
from guard.latency.machine import describe, machine
from train.benchmark.outputs import detection_numbers, images_of
from train.generators.diffusion import DiffusionOptions, make_diffusion
from train.generators.diffusion.model import BuiltInDiffusion, ModelCard
from train.generators.diffusion.noise import solver
from train.outliers.base import PrepareContext

RESULTS = Path(__file__).parent / "results"
GOAL = 0.95  # of the bare loop's images per second
STEPS = (2, 5, 10, 20, 50)
OOD_IMAGES = 400
SECTIONS = (("token", 32), ("label", 32))


def untrained(conditioning: str, side: int, **more: Any) -> BuiltInDiffusion:
    """A model of ten classes with random weights, on which time does not depend; `more` are options of its form."""
    options = DiffusionOptions(conditioning=conditioning, **more)  # type: ignore[arg-type]
    card = ModelCard(
        height=side,
        width=side,
        channels=3,
        class_names=[str(c) for c in range(10)],
        conditioning=options.conditioning,
        prediction=options.prediction,
        diffusion_width=options.width,
        latent=False,
        patch=options.patch,
    )
    torch.manual_seed(0)
    return BuiltInDiffusion(card).eval().requires_grad_(False)


@torch.no_grad()
def bare(model: BuiltInDiffusion, e: Tensor, generator: torch.Generator) -> Tensor:
    """The same images by diffusers alone: uint8 (N, H, W, channels)."""
    network, n = model.denoiser, len(e)
    fold = network.fold
    channels, height, width = model.latent_shape
    scheduler = solver(network.prediction)
    scheduler.set_timesteps(model.steps)
    z = torch.randn(n, channels * fold**2, height // fold, width // fold, generator=generator)
    both = torch.cat([network.null.expand(n, -1), e])
    with model.autocast():
        for t in scheduler.timesteps:
            if network.by_token:
                said = network.unet(torch.cat([z, z]), t, encoder_hidden_states=both[:, None]).sample
            else:
                said = network.unet(torch.cat([z, z]), t, class_labels=both).sample
            without, with_class = said.float().chunk(2)
            said = without + model.guidance * (with_class - without)
            z = scheduler.step(said, t, z).prev_sample
    pixels = ((F.pixel_shuffle(z, fold) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def speed(batch: int, steps: int, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Images per second of either for each of `SECTIONS`; ratios of ours to the bare loop's."""
    found = {}
    for conditioning, side in SECTIONS:
        model = untrained(conditioning, side)
        model.steps, model.batches.size = steps, batch
        classes = torch.arange(batch) % 10
        e = model.condition(classes)

        def ours(model: BuiltInDiffusion = model, e: Tensor = e, classes: Tensor = classes) -> Tensor:
            return model.sample(e, classes, torch.Generator().manual_seed(0))

        def theirs(model: BuiltInDiffusion = model, e: Tensor = e) -> Tensor:
            return bare(model, e, torch.Generator().manual_seed(0))

        calls: dict[str, Callable[[], object]] = {"bare": theirs, "bare again": theirs, "ours": ours}
        timings = interleave(calls, rounds=rounds, round_s=1e-3, clock=clock)
        found[f"{conditioning}, {side} x {side}"] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "bare_images_per_s": batch / timings["bare"].seconds,
            "ours_images_per_s": batch / timings["ours"].seconds,
            **{
                name: {"ratio": 1 / t.ratio, "low": 1 / t.high, "high": 1 / t.low}
                for name, t in (("ours", timings["ours"]), ("control", timings["bare again"]))
            },
        }
    return found


def speed_table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| model | parameters | bare, images/s | ours, images/s | ours / bare (quartiles) | A/A (quartiles) |"]
    lines.append("| --- " * 6 + "|")
    for name, r in found.items():
        ratios = [f"{x['ratio']:.3f} ({x['low']:.3f}-{x['high']:.3f})" for x in (r["ours"], r["control"])]
        cells = [f"{r['parameters'] / 1e6:.1f} M", f"{r['bare_images_per_s']:.2f}", f"{r['ours_images_per_s']:.2f}"]
        lines.append("| " + " | ".join([name, *cells, *ratios]) + " |")
    return "\n".join(lines)


def digits_sets() -> tuple[str, None, dict[str, ImageData]]:
    """Digits 0 to 7 to train on, and what is none of these; guards are tested on the split they hold out."""
    preprocess = load("digits:0-7").preprocess
    made: dict[str, Any] = {"digits 8-9": "digits:8-9"}
    for make in (demo_images.letters, demo_images.photo_patches, demo_images.smooth_noise):
        made[make.__name__.replace("_", " ")] = make(OOD_IMAGES, preprocess.height)
    return "digits:0-7", None, {k: load(v, preprocess=preprocess, labelled=False) for k, v in made.items()}


def parquet_sets(a: argparse.Namespace) -> tuple[str, ImageData, dict[str, ImageData]]:
    """The files that the arguments name."""
    test = load(a.test)
    files = sorted(Path(a.ood).glob("*.parquet"))
    return a.train, test, {f.stem: load(f, preprocess=test.preprocess, all_classes=False) for f in files}


def measured(g: guard.Guard, test: ImageData, ood: dict[str, ImageData]) -> dict[str, Any]:
    """Accuracy, and the numbers of `detection_numbers` per OOD set."""

    def seen(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        verdicts = [g.predict_batches([images]) for images in images_of(data)]
        return np.concatenate([v.ood_score for v in verdicts]), np.concatenate([v.label for v in verdicts])

    own, labels = seen(test)
    return {
        "accuracy": float((labels == test.labels).mean()),
        "ood": {name: detection_numbers(own, seen(images)[0]) for name, images in ood.items()},
    }


def sampling_seconds(folder: Path, data: ImageData, options: dict[str, Any], steps: int) -> float:
    """Of one image in a batch of 64."""
    context = PrepareContext(None, data, folder, 0, torch.device("cpu"))  # type: ignore[arg-type]
    model = make_diffusion(context, DiffusionOptions(**options, sampling_steps=steps))
    classes = torch.arange(64) % len(data.class_names)
    began = time.process_time()
    model.sample(model.condition(classes), classes, torch.Generator().manual_seed(0))
    return (time.process_time() - began) / len(classes)


def steps_against_quality(a: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for plain training and one per number of steps."""
    data, given_test, ood = parquet_sets(a) if a.train else digits_sets()
    source, runs = load(data), Path(a.runs)
    folder = a.diffusion_folder or str(runs / "diffusion")
    shape = {"conditioning": a.conditioning, "width": a.diffusion_width}
    shared = {**shape, "epochs": a.diffusion_epochs, "folder": folder}
    common: dict[str, Any] = {"backbone": a.backbone, "epochs": a.epochs, "seed": 0}
    rows = []
    for steps in (None, *a.steps):
        name = "plain" if steps is None else f"{steps}-steps"
        out = runs / name
        own: dict[str, Any] = {"method": "plain", "score": "msp"}
        if steps is not None:
            own = {"method": "label_mixup", "store_size": a.store, "diffusion": {**shared, "sampling_steps": steps}}
        done = (out / "guard.json").exists()
        g = guard.load(out) if done else guard.train(data, out=out, resume=out.exists(), **own, **common)
        test = given_test
        if test is None:
            from guard.data import split

            counts = g.manifest.data[0].splits
            held = split(source.labels, seed=0, calibration=counts["calibration"], test=counts["test"])  # type: ignore[arg-type]
            test = source.subset(held["test"])
        row = {"steps": steps, **measured(g, test, ood)}
        if steps is not None:
            row["seconds_per_image"] = sampling_seconds(runs, source, shared, steps)
        rows.append(row)
    return rows


def steps_table(rows: list[dict[str, Any]]) -> str:
    """Markdown, AUROC in percent."""
    sets = list(rows[0]["ood"])
    lines = ["| " + " | ".join(["steps", "accuracy", *sets, "mean", "ms per image"]) + " |"]
    lines.append("| --- " * (4 + len(sets)) + "|")
    for r in rows:
        aurocs = [100 * r["ood"][name]["auroc"] for name in sets]
        cells = [f"{x:.1f}" for x in (100 * r["accuracy"], *aurocs, float(np.mean(aurocs)))]
        cost = f"{1e3 * r['seconds_per_image']:.0f}" if r["steps"] else "-"
        lines.append("| " + " | ".join([str(r["steps"] or "plain training"), *cells, cost]) + " |")
    return "\n".join(lines)


def write(name: str, title: str, words: str, table: str, record: dict[str, Any]) -> None:
    """Both result files."""
    path = RESULTS / f"synthesis_{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    facts = record["machine"]
    text = f"# {title}\n\n{words}\n\n{describe(facts)}; load {facts['load']} at the start\n\n{table}\n"
    path.with_suffix(".md").write_text(text)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "steps"])
    parser.add_argument("--quick", action="store_true", help="few images and rounds; writes nothing")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--denoise", type=int, default=20, help="steps per image of `speed`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train")
    parser.add_argument("--test")
    parser.add_argument("--ood", help="a folder of Parquet files")
    parser.add_argument("--runs", default="runs/synthesis")
    parser.add_argument("--backbone", default="wrn16_2")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--store", type=int, default=600, help="outliers per number of steps")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--conditioning", default="label", choices=["token", "label"])
    parser.add_argument("--diffusion-folder")
    parser.add_argument("--diffusion-epochs", type=int)
    parser.add_argument("--diffusion-width", type=int, default=64)
    parser.add_argument("--name", default="digits", help="of the result files of `steps`")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(a.threads)
    began, facts = time.perf_counter(), machine()
    record: dict[str, Any] = {"benchmark": "synthesis", "created": datetime.now(UTC).isoformat(timespec="seconds")}
    record |= {"machine": facts, "settings": {"threads": a.threads}}
    if a.part == "speed":
        batch, steps, rounds = (8, 4, 3) if a.quick else (a.batch, a.denoise, a.rounds)
        kind = "processor" if a.threads == 1 else "wall"
        record["settings"] |= {"batch": batch, "steps": steps, "guidance": 2.0, "rounds": rounds, "clock": kind}
        record["models"] = speed(batch, steps, rounds, time.process_time if a.threads == 1 else time.perf_counter)
        table = speed_table(record["models"])
        words = (
            f"Batches of {batch}, {steps} steps of DPM-Solver++, guidance 2, {a.threads} threads, {rounds} interleaved "
            f"rounds,\n{kind} seconds. `benchmarks/synthesis.py` says what is compared. Goal: at least {GOAL} of the "
            "bare\nloop's images/s."
        )
        name, title = "speed", "Sampling against a bare diffusers loop"
    else:
        settings = {k: v for k, v in vars(a).items() if k in ("backbone", "epochs", "store", "conditioning", "steps")}
        record["settings"] |= settings | {"diffusion_epochs": a.diffusion_epochs, "diffusion_width": a.diffusion_width}
        record["rows"] = steps_against_quality(a)
        table = steps_table(record["rows"])
        words = (
            f"label_mixup's outliers ({a.store} of one diffusion model) by the steps they are sampled with,\n"
            f"{a.backbone}, {a.epochs} epochs, one seed: differences of a point or two mean nothing. AUROC in percent\n"
            "by maximum softmax; processor time of sampling."
        )
        name, title = f"steps_{a.name}", "Sampling steps against detection"
    record["settings"]["seconds"] = round(time.perf_counter() - began)
    print(table)
    if not a.quick:
        write(name, title, words, table, record)
    print(f"{record['settings']['seconds']} s")


if __name__ == "__main__":
    main()
