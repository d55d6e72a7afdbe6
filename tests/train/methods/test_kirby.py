"""KIRBY's image maker: an obvious object is painted over, and what has none is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Normalisation
from guard.scores import create_score
from tests.train.outliers.bright_squares import bright_or_dark, bright_squares
from train.classifiers.fresh import build_classifier
from train.methods.kirby import KeyRegionInpainting, inpaint
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.class_activation import key_regions


@pytest.fixture
def module() -> GuardModule:
    return bright_or_dark()


@pytest.fixture
def images() -> Tensor:
    return bright_squares()


def prepared(module: GuardModule, images: Tensor, folder: Path, count: int, **options: float) -> KeyRegionInpainting:
    data = load((images.numpy(), np.arange(len(images)) % 2))
    made = KeyRegionInpainting(count, 2, **options)
    made.prepare(PrepareContext(module, data, folder, 0, torch.device("cpu")))
    return made


def test_an_obvious_object_is_found_and_painted_over(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    masks = key_regions(module, images, 0.3)
    bright = images[..., 0] == 250
    assert (masks & bright).sum() > 0.9 * bright.sum()
    assert not masks[0, 12:, 12:].any()
    kirby = prepared(module, images, tmp_path, 4)
    made = kirby.sample(IDBatch(images, torch.tensor([0, 1, 0, 1])), torch.Generator().manual_seed(0))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    outside = ~masks[order]
    assert made.data[outside].equal(images[order][outside])  # only the key region changes
    assert (made.data == 250).all(-1).sum() < 0.1 * bright.sum()
    assert made.parents.tolist() == [[int(i) % 2] for i in order]  # type: ignore[union-attr]
    again = kirby.sample(IDBatch(images, torch.tensor([0, 1, 0, 1])), torch.Generator().manual_seed(0))
    assert made.data.equal(again.data)


def test_images_without_a_key_region_are_left_out(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    flat = torch.full((5, 16, 16, 3), 90, dtype=torch.uint8)
    kirby = prepared(module, images, tmp_path, 6)
    batch = IDBatch(torch.cat([flat, images[:2]]), torch.arange(7) % 2)
    made = kirby.sample(batch, torch.Generator().manual_seed(0))
    assert made.data.shape == (6, 16, 16, 3)
    assert made.parents is not None
    assert (made.data != 90).any(-1).flatten(1).any(1).all()  # none is one of the flat images, unchanged
    with pytest.raises(ConfigError, match=r"none of 5 images has a key region at cam_threshold=0.3; lower it"):
        kirby.sample(IDBatch(flat, torch.zeros(5, dtype=torch.int64)), torch.Generator())


def test_inpainting_takes_colours_from_around(images: Tensor) -> None:
    for channels in (1, 3):
        image = images[3, :, :, :channels].numpy()
        mask = np.zeros((16, 16), bool)
        mask[3:13, 3:13] = True
        made = inpaint(image, mask, 5.0)
        assert made.shape == image.shape
        assert np.abs(made.astype(int) - 100).max() <= 2


def test_grey_images_and_augmentation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 2, in_chans=1, image_size=8)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,), std=(0.25,)))
    images = torch.randint(0, 256, (10, 8, 8, 1), dtype=torch.uint8)
    data = load((images.numpy(), np.arange(10) % 2), channels=1)
    made = {}
    for augment in (False, True):
        kirby = KeyRegionInpainting(10, 2, augment_outliers=augment)
        kirby.prepare(PrepareContext(module, data, tmp_path, 0, torch.device("cpu")))
        made[augment] = kirby.sample(IDBatch(images, torch.arange(10) % 2), torch.Generator().manual_seed(0)).data
    assert made[True].shape == made[False].shape == (10, 8, 8, 1)
    assert not made[True].equal(made[False])


def test_without_a_classifier_it_says_so(images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"no classifier yet; call prepare\(context\) first"):
        KeyRegionInpainting(4, 2).sample(IDBatch(images, torch.zeros(4, dtype=torch.int64)), torch.Generator())
