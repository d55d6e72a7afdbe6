"""The input of a classifier: what was given, what is assumed, and that pixels become it as in the guard."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Normalisation, Preprocess
from guard.requests import FitRequest
from guard.scores import create_score
from tests.conftest import Arrays
from tests.train.models import sequential
from train.classifiers.fresh import build_classifier
from train.classifiers.input import (
    checked_normalisation,
    data_normalisation,
    example_batch,
    given_input,
    normalisation,
    normalised,
)
from train.classifiers.torch_models import of_module


def test_pixels_become_what_a_guard_makes_of_them() -> None:
    values = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    classifier = build_classifier("wrn10_2", "linear", 3, in_chans=3, image_size=8)
    module = GuardModule(classifier, create_score("energy"), values)
    images = example_batch(Preprocess(height=8, width=6))
    assert images.shape == (2, 8, 6, 3)
    assert torch.equal(images, example_batch(Preprocess(height=8, width=6)))
    assert torch.equal(normalised(images, values), module.normalise(images))
    expected = (images.numpy() / 255 - np.array(values.mean)) / np.array(values.std)
    np.testing.assert_allclose(normalised(images, values).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_the_mean_of_the_data_is_that_of_its_pixels(four: Arrays) -> None:
    found = data_normalisation(load(four))
    np.testing.assert_allclose(found.mean, (four[0] / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(found.std, (four[0] / 255).std((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ()),
        ({"mean": 0.0, "in_chans": 1}, ("in_chans", "mean")),
        ({"image_size": 8, "std": (1, 1, 1)}, ("image_size", "std")),
        ({"features": "head", "batch_size": 2}, ()),
    ],
)
def test_what_was_given_of_the_input(given: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert given_input(FitRequest(model=None, data=None, **given)) == expected


def test_a_mean_of_zero_is_a_mean() -> None:
    request = FitRequest(model=None, data=None, image_size=16, mean=0.0, std=1.0)
    assert of_module(sequential(), request).normalisation == Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)


def test_what_is_not_given_is_imagenets_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        assert normalisation(None, None, 1).mean == (0.449,)
        assert normalisation(None, None, 3).std == (0.229, 0.224, 0.225)
        assert normalisation(0.5, 0.5, 1) == checked_normalisation(0.5, 0.5, 1)
    assert caplog.text.count("mean= and std= not given: ImageNet's") == 2


def test_the_expected_input_is_asked_for_in_turn() -> None:
    """The request, then the caller, who knows a model's own configuration."""
    unsaid = FitRequest(model=None, data=None, mean=0.5, std=0.5)
    said = FitRequest(model=None, data=None, mean=0.5, std=0.5, image_size=16, in_chans=1)
    found = [of_module(sequential(), r, side=32, channels=3).preprocess for r in (unsaid, said)]
    assert [(p.height, p.channels) for p in found] == [(32, 3), (16, 1)]
    with pytest.raises(ConfigError, match=r"in_chans must be 3 .* or 1"):
        of_module(sequential(), unsaid, side=32, channels=4)


MEANS = [
    0.5, [0.5] * 3, np.full(3, 0.5), np.float32(0.5), torch.full((3,), 0.5), torch.tensor(0.5), "0.5,0.5,0.5", "0.5",
    "(0.5, 0.5, 0.5)", np.full((3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64), (0.5,), 127.5,
]  # fmt: skip


@pytest.mark.parametrize("given", MEANS, ids=lambda v: type(v).__name__)
def test_a_normalisation_has_many_spellings(given: Any) -> None:
    std = 127.5 if isinstance(given, float) and given > 1 else 0.25
    request = FitRequest(model=None, data=None, image_size=16, mean=given, std=std)
    found = of_module(sequential(), request).normalisation
    assert found == Normalisation(mean=(0.5,) * 3, std=(0.5 if std == 127.5 else 0.25,) * 3)


def test_numbers_of_0_to_255_pixels_are_known_by_their_size() -> None:
    """Caffe's: blue first, the mean taken off, nothing else."""
    found = checked_normalisation((104, 117, 123), 1, 3, "bgr")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    expected = pixels[..., ::-1].astype(np.float64) - [104, 117, 123]
    got = normalised(torch.from_numpy(pixels), found).permute(0, 2, 3, 1)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


WRONG = [
    ({"mean": (0.5, 0.5), "std": 1}, r"mean must be one number or 3, one per channel, got \(0\.5, 0\.5\)"),
    ({"mean": 0, "std": 0}, "std must be above 0, got 0"),
    ({"mean": 0, "std": (1, 1, -1)}, r"std must be above 0, got \(1, 1, -1\)"),
    ({"mean": float("nan"), "std": 1}, "mean must be finite, got nan"),
    ({"mean": 0, "std": np.array([1, np.inf, 1])}, r"std must be finite, got array"),
    ({"mean": "half", "std": 1}, "mean must be one number or 3, one per channel, got 'half'"),
    ({"mean": [[0.5] * 3, [0.5] * 3], "std": 1}, "mean must be one number or 3"),
    ({"mean": {"r": 0.5}, "std": 1}, "mean must be one number or 3"),
    ({"mean": "", "std": 1}, "mean: is empty"),
    ({"mean": [True] * 3, "std": 1}, "mean must be one number or 3"),
    ({"mean": 300, "std": 1}, r"mean must be in units of 0\.\.1 or 0\.\.255 pixels, got 300"),
    ({"mean": 0}, r"mean= and std= go together: give std= too"),
    ({"std": 1}, r"mean= and std= go together: give mean= too"),
    ({"mean": list(range(9999)), "std": 1}, "mean must be one number or 3"),
    ({"mean": 0, "std": 1, "in_chans": 1, "channel_order": "bgr"}, "channel_order='bgr' is for three channels"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_what_is_no_normalisation_is_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught, FitRequest.checked():
        of_module(sequential(), FitRequest(model=None, data=None, image_size=16, **wrong))
    assert len(str(caught.value)) < 300
