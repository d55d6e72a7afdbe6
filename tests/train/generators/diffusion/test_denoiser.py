"""The sizes that a UNet can halve."""

from __future__ import annotations

import itertools

import pytest
import torch

from train.generators.diffusion.denoiser import Denoiser, fold_of, levels, padded_size


@pytest.mark.parametrize("patch", [None, 1, 2, 3])
def test_every_size_is_filled_up_to_one_that_is_halved_without_a_rest(patch: int | None) -> None:
    for height, width in itertools.product(range(2, 80), repeat=2):
        filled = padded_size(height, width, patch)
        fold = fold_of(*filled, patch)
        multiple = fold * 2 ** (levels(filled[0] // fold, filled[1] // fold) - 1)
        assert all(side % multiple == 0 for side in filled), (height, width, filled)
        assert all(0 <= after - before < 2 * multiple for after, before in zip(filled, (height, width), strict=True))


@pytest.mark.parametrize("conditioning", ["label", "token"])
def test_a_map_that_gains_a_level_by_being_filled_up_goes_through(conditioning: str) -> None:
    shape = (1, *padded_size(30, 36, None))
    network = Denoiser(shape, 2, 8, None, conditioning, "epsilon")  # type: ignore[arg-type]
    e = network.condition(torch.tensor([0, 1]))
    assert network(torch.zeros(2, *shape), torch.tensor([0, 9]), e).shape == (2, *shape)
