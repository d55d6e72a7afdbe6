"""What a score costs at run time: images per second of classifier and score beside the bare classifier's.

Seconds are the processor's where there is one thread, else the wall's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from guard.graph.module import GuardModule
from guard.latency.interleave import interleave

ROUNDS, ROUND_S = 7, 0.1
BATCH, SMALLEST_BATCH = 64, 4  # images: of up to SMALL_PIXELS, and of much larger ones
SMALL_PIXELS = 32 * 32


@dataclass(frozen=True)
class Cost:
    """Images per second with the score; relative to the bare classifier's, median and quartiles over rounds."""

    images_per_second: float
    bare_images_per_second: float
    relative: float
    low: float
    high: float


def costs(modules: Mapping[str, GuardModule], images: Tensor) -> dict[str, Cost]:
    """Of each score, by name: all take turns with the bare classifier in blocks of some milliseconds.

    Args:
        modules: the same classifier with each score.
        images: a batch, uint8 (n, H, W, channels), on the classifier's device.
    """
    first = next(iter(modules.values()))
    calls: dict[str, Callable[[], object]] = {"": partial(_bare, first, images)}
    threshold = torch.zeros((), device=images.device)
    calls |= {f"score {name}": partial(_scored, module, images, threshold) for name, module in modules.items()}
    # with one thread processor time is what counts, and other processes do not show in it
    alone = images.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    timings = interleave(calls, rounds=ROUNDS, round_s=ROUND_S, clock=clock)
    bare = len(images) / timings[""].seconds
    found = {}
    for name in modules:
        t = timings[f"score {name}"]
        found[name] = Cost(len(images) / t.seconds, bare, 1 / t.ratio, 1 / t.high, 1 / t.low)
    return found


@torch.inference_mode()
def _bare(module: GuardModule, images: Tensor) -> Tensor:
    logits: Tensor = module.classifier(module.normalise(images)).logits
    return logits.cpu()  # waits for the device


def _scored(module: GuardModule, images: Tensor, threshold: Tensor) -> Tensor:
    gradient = "input gradient" in module.score.needs
    with torch.no_grad() if gradient else torch.inference_mode():
        score: Tensor = module(images, threshold)[2]
        return score.cpu()
