"""Random features of three classes, their logits, and a query set of its own."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from guard.heads import LastLayer


class Sample(NamedTuple):
    features: Tensor
    labels: Tensor
    logits: Tensor
    queries: Tensor
    query_logits: Tensor
    last: LastLayer


@pytest.fixture(scope="session")
def sample() -> Sample:
    """300 features of width 10 with a correlated covariance and a mean away from 0; 50 queries, half far off."""
    g = torch.Generator().manual_seed(1)
    mix = torch.randn(10, 10, generator=g) * torch.linspace(0.2, 2, 10)
    centres = 3 * torch.randn(3, 10, generator=g) + 5
    labels = torch.randint(0, 3, (300,), generator=g)
    features = centres[labels] + torch.randn(300, 10, generator=g) @ mix
    near = centres[labels[:25]] + torch.randn(25, 10, generator=g) @ mix
    queries = torch.cat([near, 30 * torch.randn(25, 10, generator=g)])
    last = LastLayer(torch.randn(3, 10, generator=g), torch.randn(3, generator=g))

    def logits(h: Tensor) -> Tensor:
        return h @ last.weight.T + last.bias

    return Sample(features, labels, logits(features), queries, logits(queries), last)
