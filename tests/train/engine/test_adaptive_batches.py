"""Batches that are halved where memory does not suffice."""

from __future__ import annotations

import pytest
import torch

from train.engine.adaptive_batches import Batches


def test_batches_are_halved_until_they_fit_and_lose_nothing() -> None:
    sizes = []

    def limited(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("too much")
        return x + y

    batches = Batches(16)
    x = torch.arange(10.0)
    assert batches(limited, x, x).equal(2 * x)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    assert batches.size == 2


def test_one_image_that_does_not_fit_is_said() -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Batches(4)(never, torch.zeros(4))
