"""Arrays and tensors for `predict`: one image or several, and never a guess between them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guard
from guard.errors import ImageError
from guard.image_arrays import as_sequence
from tests.conftest import Arrays
from tests.train.models import sequential

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
FIRST = np.ascontiguousarray(COLOUR.transpose(2, 0, 1))


@pytest.fixture(scope="module")
def g(four: Arrays) -> guard.Guard:
    return guard.fit(sequential(), (four[0][:80], four[1][:80]), mean=0.5, std=0.5, device="cpu")


ACCEPTED: dict[str, tuple[Any, int]] = {
    "an array": (COLOUR, 1),
    "a PIL image": (Image.fromarray(COLOUR), 1),
    "a list of them": ([COLOUR, Image.fromarray(COLOUR)], 2),
    "a tuple": ((COLOUR, COLOUR), 2),
    "a batch": (np.stack([COLOUR, COLOUR]), 2),
    "an array of objects": (np.array([Image.fromarray(COLOUR), None], object)[:1], 1),
    "a tensor, channels last": (torch.from_numpy(COLOUR), 1),
    "a batch of tensors, channels last": (torch.from_numpy(np.stack([COLOUR, COLOUR])), 2),
    "a batch of tensors, channels first": (torch.from_numpy(np.stack([FIRST, FIRST])), 2),
    "a list of tensors, channels first": ([torch.from_numpy(FIRST)], 1),
    "a generator": ((x for x in (COLOUR, COLOUR)), 2),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_form_of_one_picture_has_one_answer(name: str, g: guard.Guard) -> None:
    images, count = ACCEPTED[name]
    expected = g.predict(COLOUR)
    got = g.predict(images)
    assert len(got) == count
    np.testing.assert_array_equal(got.ood_score, np.repeat(expected.ood_score, count))


GREY = COLOUR[..., 0]
GREYS: dict[str, Any] = {
    "(H, W)": GREY,
    "(H, W, 1)": GREY[..., None],
    "(1, H, W)": GREY[None],
    "(1, H, W, 1)": GREY[None, ..., None],
    "a tensor (H, W)": torch.from_numpy(GREY.copy()),
    "a tensor (1, H, W)": torch.from_numpy(GREY[None].copy()),
    "a tensor (1, 1, H, W)": torch.from_numpy(GREY[None, None].copy()),
}


@pytest.mark.parametrize("name", GREYS)
def test_every_form_of_one_grey_picture_has_one_answer(name: str, g: guard.Guard) -> None:
    np.testing.assert_array_equal(g.predict(GREYS[name]).ood_score, g.predict(Image.fromarray(GREY)).ood_score)


def test_a_batch_of_grey_pictures_is_one() -> None:
    assert len(as_sequence(np.zeros((7, 8, 8), np.uint8))) == 7
    assert len(as_sequence(np.zeros((3, 28, 28, 1), np.uint8))) == 3
    assert len(as_sequence(np.zeros((1797, 8, 8), np.uint8))) == 1797


TWO_WAYS = r"may be one image with its channels first, or 3 grey ones; give image\.transpose\(1, 2, 0\) for the one"
REFUSED: dict[str, tuple[Any, str]] = {
    "channels first": (FIRST, TWO_WAYS),
    "a tensor with its channels first": (torch.from_numpy(FIRST), TWO_WAYS),
    "four planes": (np.zeros((4, 40, 50), np.uint8), "may be one image with its channels first, or 4 grey ones"),
    "a batch with its channels first": (FIRST[None], r"channels first; give images\.transpose\(0, 2, 3, 1\)"),
    "a grey batch with its channels first": (GREY[None, None], r"channels first; give images\.transpose\(0, 2, 3, 1\)"),
    "channels first in a list": ([FIRST], r"image 0: .*if its channels come first: image\.transpose\(1, 2, 0\)"),
    "two channels": (np.zeros((40, 50, 2), np.uint8), "looks like one image of 2 channels"),
    "two channels in a list": ([np.zeros((40, 50, 2), np.uint8)], r"for grey with transparency: image\[\.\.\., 0\]"),
    "thirteen bands": (np.zeros((64, 64, 13), np.uint8), "looks like one image of 13 channels"),
    "floats": (COLOUR / 255, r"must be uint8 with values 0\.\.255, got float64"),
    "16 bits": (COLOUR.astype(np.uint16), r"must be uint8 with values 0\.\.255, got uint16"),
    "a tensor of floats": (torch.zeros(2, 3, 8, 8), "got a float32 tensor"),
    "bfloat16 in a list": ([torch.zeros(3, 8, 8, dtype=torch.bfloat16)], "got a bfloat16 tensor"),
    "five dimensions": (np.zeros((1, 1, 8, 8, 3), np.uint8), "must have shape"),
    "a number": (np.zeros((), np.uint8), "must have shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_with_the_fix(name: str, g: guard.Guard) -> None:
    images, sentence = REFUSED[name]
    with pytest.raises(ImageError, match=sentence) as caught:
        g.predict(images)
    assert len(str(caught.value)) < 300


def test_paths_in_an_array_are_paths(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    for kind in (object, str):
        assert list(as_sequence(np.array([str(tmp_path / "a.png")] * 2, dtype=kind))) == [str(tmp_path / "a.png")] * 2


def test_an_open_file_and_a_mapping_are_not_taken_apart(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "PNG")
    for given in (file, [file], (one for one in [file])):
        with pytest.raises(ImageError, match=r"an open file is not an image; give its content: file\.read\(\)"):
            as_sequence(given)
    with pytest.raises(ImageError, match=r"got a mapping; give list\(images\.values\(\)\)"):
        as_sequence({"x": COLOUR})
