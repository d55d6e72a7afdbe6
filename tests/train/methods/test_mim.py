"""MIM's official augmentation of its averages, against torchvision's transforms called one by one."""

from __future__ import annotations

import torch
from torchvision.transforms import ColorJitter, RandomAffine

from tests.composition import stages_of
from train.outliers.base import IDBatch
from train.outliers.images.pixel_average import PixelAverage
from train.outliers.jittered import Jittered


def test_half_of_the_averages_are_jittered_and_turned_as_torchvision_does() -> None:
    images = torch.randint(0, 256, (20, 12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = IDBatch(images, torch.arange(20) % 4)
    plain = PixelAverage(40, 4, k=2).sample(batch, torch.Generator().manual_seed(1)).data
    torch.manual_seed(2)
    made = Jittered(PixelAverage(40, 4, k=2)).sample(batch, torch.Generator().manual_seed(1)).data
    torch.manual_seed(2)
    chosen = torch.rand(40) < 0.5
    jitter, affine = ColorJitter(0.5, 0.3, 0.3, 0.3), RandomAffine(90, translate=(0.2, 0.2))
    for i in range(40):
        image = plain[i].permute(2, 0, 1)
        expected = affine(jitter(image)) if chosen[i] else image
        assert made[i].equal(expected.permute(1, 2, 0))
    assert 10 < int(chosen.sum()) < 30


def test_it_is_an_option() -> None:
    assert isinstance(stages_of("mim", augment_outliers=True)[-1].synthesiser, Jittered)
    assert isinstance(stages_of("mim")[-1].synthesiser, PixelAverage)
