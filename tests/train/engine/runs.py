"""What the tests of the engine share: equal runs, and short ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import guard
from tests.conftest import Arrays

Tiny = dict[str, Any]


def weights(g: guard.Guard) -> dict[str, Tensor]:
    """Everything that is stored."""
    return g.module.state_dict()


def assert_equal(a: guard.Guard, b: guard.Guard) -> None:
    """Bit for bit: weights, batch-norm statistics, score, threshold."""
    assert list(weights(a)) == list(weights(b))
    for key, value in weights(a).items():
        assert torch.equal(value, weights(b)[key]), key
    assert a.threshold == b.threshold
    assert a.manifest.metrics == b.manifest.metrics


def short(four: Arrays) -> Arrays:
    """A third of the images: what only has to run."""
    return four[0][::3], four[1][::3]
