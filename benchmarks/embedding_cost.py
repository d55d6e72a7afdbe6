"""What embedding an image in a diffusion model's conditioning space costs, by what it is worth (NCIS, Doorenbos 2024).

    python -m benchmarks.embedding_cost            # about 5 minutes on one core; results/embedding_cost.json and .md
    python -m benchmarks.embedding_cost --quick    # 8 images, to the terminal only

The built-in model is trained on scikit-learn's digits at 16 pixels (--folder keeps it). Training images are embedded
by each procedure; its cost is calls of the network per image (each forward and backward), its worth the held-out
denoising loss: the mean squared error of the noise at each of the 50 times of the grid, with noises that no procedure
has seen and that are the same for all. Differences, to the anchor T(y), which costs nothing, and to the official
procedure, come with their standard errors over images. Profiling the times for "importance" costs 800 calls once for a
data set, which the last column counts over the images of this one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData, load
from guard.latency.machine import describe, machine
from train.generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from train.outliers.base import PrepareContext
from train.outliers.conditioning.image_embeddings import SHARED
from train.outliers.conditioning.prompt_tuning import (
    GRID,
    EmbedOptions,
    conditioning_scale,
    time_grid,
    time_shares,
    tuned,
)
from train.runs.synth import untrained

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
AT_ONCE = 16  # images
OFFICIAL: dict[str, Any] = {"pairs": 32, "lr": 1e-2, "times": "random"}
GOAL = 5.0  # times as few calls as the official procedure's, at its loss or below
PROCEDURES: dict[str, dict[str, Any]] = {
    "official": OFFICIAL,
    "importance (default)": {},
    "importance, the official step": {"lr": 1e-2},
    "importance, half the pairs, half the step": {"pairs": 3, "lr": 2.5e-3},
    "importance, antithetic noise": {"noise": "antithetic"},
    "stratified": {"times": "stratified"},
    "random": {"times": "random"},
    "random, the official step": {**OFFICIAL, "pairs": 6},
    "official, half the step": {**OFFICIAL, "lr": 5e-3},
}


def digits() -> ImageData:
    """All ten at 16 pixels, 1,437 of them."""
    data = load("digits")
    assert data.array is not None
    assert data.labels is not None
    rows = np.random.default_rng(0).permutation(len(data))[:1437]
    return load((np.ascontiguousarray(data.array[rows, ::2, ::2]), np.array(data.labels[rows])))


def held_out_loss(diffusion: Diffusion, latents: Tensor, e: Tensor, classes: Tensor) -> Tensor:
    """(N, 50): the squared error of the noise at each time of the grid, for noises of their own."""
    generator = torch.Generator().manual_seed(20_000)
    losses = []
    with torch.no_grad():
        for t in time_grid(diffusion.times):
            noise = torch.randn(latents.shape, generator=generator)
            losses.append(diffusion.noise_loss(latents, e, classes, times=t.expand(len(e)), noise=noise))
    return torch.stack(losses, 1)


def embedded(
    diffusion: Diffusion, latents: Tensor, classes: Tensor, options: EmbedOptions, scale: float, shares: Tensor
) -> Tensor:
    """Embeddings (N, E) by the options, a few images at once."""
    parts = []
    for part in torch.arange(len(latents)).split(AT_ONCE):
        generators = [torch.Generator().manual_seed(1000 + i) for i in part.tolist()]
        uneven = shares if options.times == "importance" else None
        parts.append(tuned(diffusion, latents[part], classes[part], generators, options, scale, uneven)[0])
    return torch.cat(parts)


def compare(diffusion: Diffusion, data: ImageData, images: int) -> dict[str, Any]:
    """Every procedure's cost and worth on the first `images` images."""
    assert data.labels is not None
    rows = np.arange(images)
    latents = diffusion.encode(torch.from_numpy(data.take(rows).copy()))
    classes = torch.from_numpy(data.labels[rows].copy())
    some = np.linspace(0, len(data) - 1, SHARED).astype(np.int64)
    profile = diffusion.encode(torch.from_numpy(data.take(some).copy())), torch.from_numpy(data.labels[some].copy())
    shares = time_shares(diffusion, *profile, torch.Generator().manual_seed(0))
    scale = conditioning_scale(diffusion, len(data.class_names), CPU, EmbedOptions(), DiffusionOptions())
    anchors = diffusion.condition(classes)
    base = held_out_loss(diffusion, latents, anchors, classes)
    found: dict[str, Any] = {}
    official = torch.zeros(images)
    for name, given in PROCEDURES.items():
        options = EmbedOptions(**given)
        began = time.process_time()
        e = embedded(diffusion, latents, classes, options, scale, shares)
        seconds = time.process_time() - began
        gain = held_out_loss(diffusion, latents, e, classes) - base
        official = gain.mean(1) if name == "official" else official
        beside = gain.mean(1) - official
        calls = options.iterations * options.pairs
        once = SHARED * GRID / len(data) if options.times == "importance" else 0.0
        found[name] = {
            "options": options.model_dump(),
            "calls": calls,
            "calls_with_profile": calls + once,
            "difference": float(gain.mean()),
            "standard_error": float(gain.mean(1).std()) / images**0.5,
            "against_official": float(beside.mean()),
            "against_official_standard_error": float(beside.std()) / images**0.5,
            "difference_at_first_time": float(gain[:, 0].mean()),
            "moved": float(((e - anchors).norm(dim=-1) / anchors.norm(dim=-1)).mean()),
            "cpu_ms_per_image": 1000 * seconds / images,
        }
        print(f"{name}: {found[name]['difference']:.5f} +- {found[name]['standard_error']:.5f}", flush=True)
    return {
        "anchor_loss": float(base.mean()),
        "anchor_loss_at_first_time": float(base[:, 0].mean()),
        "share_of_first_time": float(shares[0]),
        "scale": scale,
        "procedures": found,
    }


def cheapest(found: dict[str, Any]) -> str:
    """The procedure of the fewest calls whose loss is no higher than the official one's."""
    bar = found["official"]["difference"]
    good = {name: r["calls_with_profile"] for name, r in found.items() if r["difference"] <= bar}
    return min(good, key=good.__getitem__)


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    head = ["procedure", "steps x pairs", "lr", "calls", "held-out loss against T(y)'s, 1e-4", "of it at t = 1"]
    head += ["against the official's, 1e-4", "moved, of T(y)", "CPU ms", "official / calls"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, r in found.items():
        o = r["options"]
        cells = [
            name,
            f"{o['iterations']} x {o['pairs']}",
            f"{o['lr']:g}",
            str(r["calls"]),
            f"{1e4 * r['difference']:+.1f} ± {1e4 * r['standard_error']:.1f}",
            f"{1e4 * r['difference_at_first_time'] / GRID:+.1f}",
            f"{1e4 * r['against_official']:+.1f} ± {1e4 * r['against_official_standard_error']:.1f}",
            f"{r['moved']:.2f}",
            f"{r['cpu_ms_per_image']:.0f}",
            f"{found['official']['calls'] / r['calls_with_profile']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """The .md file beside the .json."""
    settings, facts, r = result["settings"], result["machine"], result["results"]
    found = r["procedures"]
    best, default = cheapest(found), found["importance (default)"]
    return f"""# The cost of embeddings

{settings["images"]} of 1,437 digits at 16 pixels; built-in model, width {settings["diffusion_width"]}, \
{settings["diffusion_epochs"]} epochs. `benchmarks/embedding_cost.py` says what is compared. Goal: {GOAL:.0f} times as \
few calls as the official procedure's at its held-out loss.

{describe(facts)}; load {facts["load"]} at the start

{table(found)}

T(y) itself has a loss of {r["anchor_loss"]:.4f}. The default procedure takes \
{found["official"]["calls"] / default["calls"]:.1f} times as few calls as the official one \
({found["official"]["calls"] / default["calls_with_profile"]:.1f} with the profile), and changes the loss by \
{1e4 * default["difference"]:+.1f}e-4 where that changes it by {1e4 * found["official"]["difference"]:+.1f}e-4. The \
cheapest that is no worse than the official one is "{best}": {found[best]["calls"]} calls.

At t = 1 the loss is {r["anchor_loss_at_first_time"]:.2f}, so that an even draw decides a step when it is \
t = 1, once in 50; by importance it is drawn {100 * r["share_of_first_time"]:.0f} times in 100, with less weight.
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=None, help="where the diffusion model is, or will be, kept")
    parser.add_argument("--quick", action="store_true", help="8 images; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "embedding_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, facts, data = time.perf_counter(), machine(), digits()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        options = DiffusionOptions(epochs=16, width=32, folder=str(folder))
        diffusion = make_diffusion(PrepareContext(untrained(data, CPU), data, folder, 0, CPU), options)
    settings: dict[str, Any] = {
        "images": 8 if args.quick else args.images,
        "diffusion_epochs": options.epochs,
        "diffusion_width": options.width,
    }
    result = {
        "benchmark": "embedding_cost",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "results": compare(diffusion, data, settings["images"]),
    }
    settings["seconds"] = round(time.perf_counter() - began)
    print(report(result))
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(f"{settings['seconds']} s")


if __name__ == "__main__":
    main()
