"""guard / bare on torch CUDA, by network, precision and batch; and whether the GPU flags as the CPU does.

bare    the backbone with its linear head: prepared float images on the device in, logits out
guard   what `guard.train` returns: uint8 pixels on the device in; label, probabilities, score and flag out

float32 is without TF32. In bf16 and fp16 the network runs under autocast, and what is behind it in float32. A call ends
when the device is done. Ratios are of one round (`guard.latency.interleave`); "A/A" is bare against itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guard.detector import Guard
from guard.latency.interleave import interleave

from .part import Part, run, synchronise
from .random_guard import images, random_guard

TITLE = "guard / bare on torch"
NETWORKS = (("resnet18", 32, "energy", 0), ("wrn16_2", 32, "energy", 0), ("resnet50", 224, "energy", 0))
BANK = ("resnet18", 32, "knn", 50_000)
BATCHES = (1, 8, 64, 512)
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(part: Part) -> None:
    """Every network in every precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    networks = [("wrn16_2", 16, "energy", 0)] if part.toy else [*NETWORKS[:1], BANK, *NETWORKS[1:]]
    for backbone, pixels, score, bank in networks:
        g = random_guard(backbone, pixels, score=score, bank=bank)
        some = images(16 if part.toy else 512, pixels)
        ours = g.predict_batches([some[i : i + 64] for i in range(0, len(some), 64)])
        g.module.to(part.device)
        for precision, dtype in PRECISIONS.items():
            what = f"{backbone} {score} {precision}"
            part.attempt(what, partial(_one, part, g, (backbone, score, precision), dtype, some, ours))


def _one(part: Part, g: Guard, names: tuple[str, str, str], dtype: torch.dtype | None, some: Any, ours: Any) -> None:
    mixed = _mixed(part, dtype)
    threshold = torch.tensor(g.threshold, device=part.device)

    @torch.inference_mode()
    def guarded(pixels: Tensor) -> tuple[Tensor, ...]:
        with mixed():
            seen = g.module.outputs(pixels)
        logits, features = seen.logits.float(), seen.features.float()
        score = g.module.score(features, logits, None)
        return logits.argmax(-1), logits.softmax(-1), score, score > threshold

    @torch.inference_mode()
    def bare(prepared: Tensor) -> Tensor:
        with mixed():
            logits: Tensor = g.module.classifier(prepared).logits
        return logits

    parts = torch.from_numpy(some).to(part.device).split(64)
    found = [torch.cat(columns).cpu().numpy() for columns in zip(*map(guarded, parts), strict=True)]
    flips = {
        "flag flips": int((found[3] != ours.is_ood).sum()),
        "label changes": int((found[0] != ours.label).sum()),
        "score difference": float(abs(found[2] - ours.ood_score).max()),
        "images": len(some),
    }
    for batch in (1, 4) if part.toy else BATCHES:
        pixels = torch.from_numpy(images(batch, some.shape[1])).to(part.device)
        prepared = g.module.normalise(pixels)
        calls: dict[str, Callable[[], object]] = {
            name: _waited(part.device, call, given)
            for name, call, given in (("bare", bare, prepared), ("A/A", bare, prepared), ("guard", guarded, pixels))
        }
        rounds, round_s = (2, 1e-3) if part.toy else (9, 0.03)
        timings = interleave(calls, rounds=rounds, round_s=round_s, block_s=min(0.005, round_s))
        t = timings["guard"]
        speed = {"bare, ms": 1e3 * timings["bare"].seconds, "guard, ms": 1e3 * t.seconds, "guard / bare": t.ratio}
        spread = {"quartiles": f"{t.low:.3f}-{t.high:.3f}", "A/A": timings["A/A"].ratio}
        keys = dict(zip(("network", "score", "precision"), names, strict=True))
        part.row(**keys, batch=batch, **speed, **spread, **flips)


def _mixed(part: Part, dtype: torch.dtype | None) -> Callable[[], Any]:
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(part.device.type, dtype=dtype)


def _waited(device: torch.device, call: Callable[[Tensor], object], given: Tensor) -> Callable[[], object]:
    def waited() -> None:
        call(given)
        synchronise(device)

    return waited


if __name__ == "__main__":
    run("guard_cost", TITLE, measure)
