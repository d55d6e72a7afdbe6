"""What each value of `augment=` costs: the augmentation of a batch against a whole plain step of training.

    python -m benchmarks.augmentation_cost            # about 2 minutes on one core; to the terminal only

128 random images of 32 pixels, one thread. The step is WRN-16-2's with "crop+flip", as in `training_cost`; single steps
and short names stand for crop+flip and them where `augment=` reads them so. Times are of the processor, interleaved.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.training_cost import BATCH, CONTENDERS, IMAGES, PIXELS, endless_step, random_images, stage_run
from guard.latency.interleave import Timing, interleave
from guard.latency.machine import describe, machine
from train.augmentations.base import AugmentContext, Chain, list_steps

SLOW = ("randaugment", "autoaugment", "augmix")  # image by image: measured with --all


def augmentation(augment: str) -> Callable[[], object]:
    """A closure that augments one batch."""
    context = AugmentContext(PIXELS, PIXELS, 3, (125.0, 123.0, 114.0), 0, torch.device("cpu"))
    chain, generator = Chain(augment, context), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, PIXELS, PIXELS, 3), dtype=torch.uint8)

    def call() -> None:
        made = chain(images, generator)
        if chain.mixing is not None:
            chain.mixing(made, generator)

    return call


def table(timings: dict[str, Timing]) -> str:
    """Markdown: milliseconds, and per cent of the step."""
    lines = ["| augment | ms | % of a step (quartiles) |", "| --- | --- | --- |"]
    for name, t in timings.items():
        percent = f"{100 * t.ratio:.1f} ({100 * t.low:.1f}-{100 * t.high:.1f})"
        lines.append(f"| {name} | {t.seconds * 1e3:.1f} | {percent} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(SLOW)}, which take seconds")
    parser.add_argument("--only", nargs="+", help="of the values of augment=")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = random_images(IMAGES, 0)
    step = endless_step(stage_run(CONTENDERS[0], data, random_images(IMAGES, 1), "wrn16_2"))
    names = args.only or ["crop+flip", *(name for name in list_steps() if args.all or name not in SLOW)]
    calls = {"a whole plain step": step, **{name: augmentation(name) for name in names}}
    timings = interleave(calls, rounds=args.rounds, round_s=0.3, clock=time.process_time)
    print(describe(machine()), "\n")
    print(table(timings))


if __name__ == "__main__":
    main()
