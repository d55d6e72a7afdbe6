"""Both contenders of the sampling benchmark make the same images, so that their times can be compared."""

from __future__ import annotations

import pytest
import torch

from benchmarks.synthesis import bare, untrained


@pytest.mark.parametrize("conditioning", ["token", "label"])
def test_the_bare_loop_makes_the_images_that_are_sampled(conditioning: str) -> None:
    model = untrained(conditioning, 8, width=8)
    model.steps = 3
    classes = torch.tensor([1, 7, 7])
    e = model.condition(classes)
    ours = model.sample(e, classes, torch.Generator().manual_seed(0))
    theirs = bare(model, e, torch.Generator().manual_seed(0))
    assert ours.shape == theirs.shape == (3, 8, 8, 3)
    assert len(ours.unique()) > 20
    assert (ours.int() - theirs.int()).abs().max() <= 1
