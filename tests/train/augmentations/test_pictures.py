"""Drawn pictures: what they are a function of, and that they have structure."""

from __future__ import annotations

import pytest
import torch

from train.augmentations.pictures import (  # before it is replaced
    SHARES,
    _kept,
    cut,
    drawn_pictures,
    how_many,
    picture_sides,
)
from train.augmentations.pictures.colours import noise


@pytest.mark.parametrize(("height", "width", "channels"), [(18, 18, 3), (9, 21, 1), (36, 27, 3)])
def test_they_are_a_pure_function_of_seed_and_size(height: int, width: int, channels: int) -> None:
    torch.manual_seed(1)
    made = []
    for seed in (3, 3, 4):
        _kept.cache_clear()
        made.append(drawn_pictures(height, width, channels, seed, 20))
    assert made[0].shape == (20, height, width, channels)
    assert made[0].dtype == torch.uint8
    assert made[0].equal(made[1])
    assert not made[0].equal(made[2])
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    drawn_pictures(height, width, channels, 3, 4)
    assert torch.rand(1).equal(expected)


def test_what_shows_the_same_pictures_has_them_drawn_once() -> None:
    """Stages, PixMix and the outliers `drawn`: drawing takes seconds."""
    given = drawn_pictures(9, 9, 1, 5, 3)
    assert drawn_pictures(9, 9, 1, 5, 3) is given
    assert drawn_pictures(9, 9, 1, 6, 3) is not given


def test_every_kind_is_varied_and_has_structure() -> None:
    """Neighbours are alike, as in no white noise, and no picture is flat or like another."""
    for draw in SHARES:
        x = draw(40, 48, 48, torch.Generator().manual_seed(0)).clamp(0, 1)
        assert x.shape == (40, 3, 48, 48)
        assert x.isfinite().all()
        centred = x - x.mean((2, 3), keepdim=True)
        deviation = centred.square().mean((1, 2, 3)).sqrt()
        assert (deviation > 0.02).float().mean() > 0.95, draw.__name__
        alike = (centred[..., 1:] * centred[..., :-1]).mean((1, 2, 3)) / deviation**2
        assert alike.median() > 0.3, draw.__name__
        assert torch.pdist(x.flatten(1)).min() > 1, draw.__name__


def test_the_noise_has_the_spectrum_that_is_asked_for() -> None:
    fields = noise(2000, 32, 32, torch.full((2000,), 1.5), torch.Generator().manual_seed(0))
    amplitude = torch.fft.fft2(fields).abs().square().mean(0).sqrt()
    slope = (amplitude[0, 8] / amplitude[0, 2]).log() / torch.tensor(4.0).log()
    assert slope.item() == pytest.approx(-1.5, abs=0.05)


def test_a_part_is_a_window_of_the_picture() -> None:
    pictures = torch.arange(3 * 10 * 8 * 2).view(3, 10, 8, 2)
    which = torch.arange(300) % 3
    parts = cut(pictures, which, 6, 5, torch.Generator().manual_seed(0))
    assert parts.shape == (300, 2, 6, 5)
    seen = set()
    for part, i in zip(parts, which.tolist(), strict=True):
        down, across = divmod((part[0, 0, 0].item() - i * 160) // 2, 8)
        seen.add((down, across))
        assert part.equal(pictures[i, down : down + 6, across : across + 5].permute(2, 0, 1))
    assert seen == {(i, j) for i in range(5) for j in range(4)}


def test_sizes_and_numbers() -> None:
    assert picture_sides(32, 32) == (36, 36)  # as officially
    assert picture_sides(224, 224) == (252, 252)
    assert picture_sides(16, 9) == (18, 11)
    assert how_many(36, 36) == 2000
    assert 256 <= how_many(252, 252) < 500
    assert how_many(2000, 2000) == 256
