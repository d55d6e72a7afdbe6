"""Blurred objects: where they are, what is left alone, the blur against a slow one, the detector's boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier
from guard.heads import create_head
from guard.scores import create_score
from tests.train.outliers.bright_squares import NORMALISATION, Brightness
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.images.blurred_object import BlurredObject, Box, around, blurred

CPU = torch.device("cpu")


@pytest.fixture
def module() -> GuardModule:
    """Class 0 is "bright somewhere", class 1 "dark somewhere"."""
    head = create_head("linear", 2, 2)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(torch.eye(2) if "weight" in name else torch.zeros(2))
    return GuardModule(Classifier(Brightness(), head), create_score("energy"), NORMALISATION)


@pytest.fixture
def images() -> Tensor:
    """16 x 16: grey with one bright, patterned 8 x 8 square, at another place in each."""
    x = torch.full((4, 16, 16, 3), 100, dtype=torch.uint8)
    draw = torch.Generator().manual_seed(0)
    for i, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (4, 4)]):
        x[i, top : top + 8, left : left + 8] = torch.randint(220, 256, (8, 8, 3), generator=draw, dtype=torch.uint8)
    return x


def prepared(module: GuardModule, images: Tensor, folder: Path, count: int, **options: Any) -> BlurredObject:
    made = BlurredObject(count, 2, **options)
    data = load((images.numpy(), np.arange(len(images)) % 2))
    made.prepare(PrepareContext(module, data, folder, 0, CPU))
    return made


def batch(images: Tensor) -> IDBatch:
    return IDBatch(images, torch.arange(len(images)) % 2)


def mean_around(image: np.ndarray, box: Box, side: int) -> np.ndarray:
    """Every pixel of the box as the mean over a square of pixels of the box, mirrored at its borders."""
    inside = image[box.top : box.bottom, box.left : box.right].astype(float)
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(inside, ((before, after), (before, after), (0, 0)), mode="reflect")
    made = np.zeros_like(inside)
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            made[i, j] = padded[i : i + side, j : j + side].mean((0, 1))
    return made


def test_the_object_is_blurred_and_its_surroundings_stay(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    synthesiser = prepared(module, images, tmp_path, 4)
    made = synthesiser.sample(batch(images), torch.Generator().manual_seed(0))
    assert made.parents is not None
    assert sorted(made.parents.flatten().tolist()) == [0, 0, 1, 1]
    for i, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (4, 4)]):
        square = torch.zeros(16, 16, dtype=torch.bool)
        square[top : top + 8, left : left + 8] = True
        row = next(n for n, image in enumerate(made.data) if (image[square] > 110).all())  # still the brightest place
        assert made.parents[row].item() == i % 2
        changed = (made.data[row] != images[i]).any(-1)
        assert changed[square].float().mean() > 0.9
        assert changed[~square].float().mean() < 0.2  # the box is at most a pixel wider
        inside = slice(top + 2, top + 6), slice(left + 2, left + 6)
        assert made.data[row][inside].float().std() < 0.7 * images[i][inside].float().std()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blur", [0.2, 0.25])
def test_the_blur_is_a_mean_within_the_box(channels: int, blur: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 16, channels), dtype=np.uint8)
    box = Box(3, 4, 15, 13)
    made = blurred(image, [box], blur)
    expected = mean_around(image, box, round(blur * 20))
    np.testing.assert_allclose(made[3:15, 4:13], expected, atol=0.6)
    untouched = made.copy()
    untouched[3:15, 4:13] = image[3:15, 4:13]
    assert untouched.tolist() == image.tolist()


def test_several_boxes_and_tiny_ones() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    both = blurred(image, [Box(0, 0, 2, 2), Box(8, 8, 16, 16)], 50 / 224)
    np.testing.assert_allclose(both[:2, :2], mean_around(image, Box(0, 0, 2, 2), 4), atol=40)  # mirrored twice over
    assert (both[:2, :2] != image[:2, :2]).any()
    assert (both[8:, 8:] != image[8:, 8:]).any()
    assert both[2:8].tolist() == image[2:8].tolist()


def test_objects_that_fill_the_image_are_left_alone(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    large = images.clone()
    large[0] = 250
    large[0, :2] = 100
    made = prepared(module, images, tmp_path, 8).sample(batch(large), torch.Generator().manual_seed(0))
    assert len(made.data) == 3  # the others, once each
    assert made.parents is not None
    assert made.parents.flatten().tolist().count(0) == 1  # of image 2 alone
    assert not any((image[:2] == 100).all() and (image[4:] > 200).all() for image in made.data)
    with pytest.raises(ConfigError, match=r"in none of 1 images an object of at most 0.5 of the image was found"):
        prepared(module, images, tmp_path, 8).sample(batch(large[:1]), torch.Generator())
    whole = prepared(module, images, tmp_path, 1, max_area=1.0).sample(batch(large[:1]), torch.Generator())
    assert whole.data.shape == (1, 16, 16, 3)


def test_before_prepare_it_says_what_is_missing(images: Tensor) -> None:
    with pytest.raises(ConfigError, match="no classifier yet"):
        BlurredObject(4, 2).sample(batch(images), torch.Generator())


def test_the_box_around_a_mask() -> None:
    mask = np.zeros((6, 8), bool)
    assert around(mask) == []
    mask[2, 3] = mask[4, 1] = True
    assert around(mask) == [Box(2, 1, 5, 4)]
    assert around(mask)[0].area == 9
