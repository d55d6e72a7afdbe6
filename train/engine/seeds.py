"""Where random numbers come from: seeds of their own for each epoch of each stage, and for initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PREPARED_STAGE = 10_000  # numbers the seeds of what is trained before a stage, apart from those of stages


def epoch_seed(seed: int, stage: int, epoch: int) -> int:
    """A seed of its own for each epoch of each stage."""
    return (seed * 1_000_003 + stage * 10_007 + epoch * 2 + 1) % 2**63


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights from `seed`, whatever was drawn before; the global generator continues as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
