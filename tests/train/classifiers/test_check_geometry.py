"""guard.fit says when the classifier is clearly more often right on other pixels, and is silent otherwise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import guard
from train.classifiers.checks.geometry import balanced, clearly_better, renamed_accuracy

HALF: dict[str, Any] = {"mean": 0.5, "std": 0.5, "device": "cpu"}


class Corner(nn.Module):
    """Knows four classes by where the bright half is: exact, whatever the processor. Its input is 16 pixels square."""

    def __init__(self, first: int = 0, threshold: float = 0.0) -> None:
        super().__init__()
        self.first, self.threshold = first, threshold
        self.last = nn.Linear(4, 4)
        with torch.no_grad():
            self.last.weight.copy_(10 * torch.eye(4))
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, self.first] - self.threshold
        left, right, above, below = red[:, :, :2], red[:, :, -2:], red[:, :2], red[:, -2:]
        return self.last(torch.stack([part.mean((1, 2)) for part in (left, right, above, below)], 1))


def pictures(root: Path, height: int, width: int, seed: int = 0) -> Path:
    """Sixty pictures of each of four classes: a bright red edge at one of the sides, a tenth of it wide."""
    rng = np.random.default_rng(seed)
    for index in range(240):
        pixels = rng.integers(40, 90, (height, width, 3), dtype=np.uint8)
        bar = pixels[:, :, 0]
        edge = max(1, height // 10), max(1, width // 10)
        view = (bar[:, : edge[1]], bar[:, -edge[1] :], bar[: edge[0]], bar[-edge[0] :])[index % 4]
        view[:] = 255
        folder = root / "abcd"[index % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return root


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "this input on" in record.getMessage()]


def test_squashed_pictures_are_missed_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The edges of wide pictures are cut off by the default, and their classes with them."""
    wide = pictures(tmp_path / "wide", 16, 64)
    guard.fit(Corner(), wide, image_size=16, **HALF)
    (sentence,) = warned(caplog)
    assert sentence.startswith("resize='squash' is right on 100.0 % of")
    assert sentence.endswith("give resize='squash' if the classifier was trained so")
    assert "this input on" in sentence
    caplog.clear()
    g = guard.fit(Corner(), wide, image_size=16, resize="squash", **HALF)
    assert warned(caplog) == []
    assert g.manifest.metrics["test_accuracy"] == 1


def test_a_given_option_is_never_overruled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = pictures(tmp_path / "wide", 16, 64)
    g = guard.fit(Corner(), wide, image_size=16, resize="crop", crop_pct=0.875, **HALF)
    assert len(warned(caplog)) == 1
    assert g.manifest.preprocess.resize == "crop"
    assert g.manifest.preprocess.resize_to == (18, 18)


def test_blue_first_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pixels of exactly the input's size, as arrays: only normalisation and order can be otherwise."""
    paths = sorted(pictures(tmp_path / "own", 16, 16).glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = np.array(["abcd".index(path.parent.name) for path in paths])
    guard.fit(Corner(first=2), (images, labels), **HALF)
    (sentence,) = warned(caplog)
    assert sentence.startswith("channel_order='bgr' is right on 100.0 % of")
    caplog.clear()
    guard.fit(Corner(first=2), (images, labels), channel_order="bgr", **HALF)
    assert warned(caplog) == []


class Bright(nn.Module):
    """Knows dark from bright pictures by a threshold on its input: the normalisation decides."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.last = nn.Linear(1, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.last.bias.copy_(torch.tensor([threshold, -threshold]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.mean((2, 3))[:, :1])


@pytest.mark.parametrize(
    ("threshold", "given", "said"),
    [(0.0, {"mean": 0, "std": 1}, "mean="), (128.0, {"mean": 0.5, "std": 0.5}, "mean=0, std=1/255")],
)
def test_another_normalisation_is_found_out(
    threshold: float, given: dict[str, float], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = (rng.integers(10, 90, (200, 8, 8, 3)) + 140 * labels[:, None, None, None]).astype(np.uint8)
    guard.fit(Bright(threshold), (images, labels), device="cpu", **given)
    (sentence,) = warned(caplog)
    assert sentence.startswith(said)
    assert len(sentence) < 300


def test_chance_is_no_ground_for_advice(caplog: pytest.LogCaptureFixture) -> None:
    """A network that says one class whatever it sees, and data in which that class is rare."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 150 + [1] * 50)
    images = rng.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    caplog.set_level(logging.WARNING, logger="ood_guard")
    guard.fit(Bright(-100.0), (images, labels), mean=0, std=1, device="cpu")
    assert warned(caplog) == []


def test_what_is_clear_is_mcnemars_three_sigma() -> None:
    """z = (b - c) / sqrt(b + c) of the images where the two differ, and two in a hundred of all."""
    than = np.array([True] * 100 + [False] * 100)
    for gained, lost, clear in [(9, 0, True), (8, 0, False), (16, 2, True), (15, 5, False), (100, 80, False)]:
        right = than.copy()
        right[:lost], right[100 : 100 + gained] = False, True
        assert clearly_better(right, than) is clear, (gained, lost)
    many = np.zeros(1000, bool)
    few = many.copy()
    few[:15] = True
    assert not clearly_better(few, many)  # sure, but no more than 1.5 %


def test_the_sample_has_some_of_each_class() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 3)
    found = np.bincount(labels[balanced(labels, 256)])
    assert found.tolist() == [85, 85, 3]
    assert len(balanced(np.arange(1000), 256)) == 256


def test_what_another_order_of_the_classes_explains_better_is_left_to_its_own_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red, green, blue and yellow; names of red and blue changed: blue first would be right on three of four."""
    rng = np.random.default_rng(0)
    classes = np.arange(240) % 4
    lit = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)])[classes]
    images = (rng.integers(0, 50, (240, 8, 8, 3)) + 180 * lit[:, None, None]).astype(np.uint8)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -2]]))
        model[2].bias.copy_(torch.tensor([0.0, 0, 0, -250]))
    pixels = {"mean": 0, "std": 1 / 255, "device": "cpu", "class_names": list("0123")}
    for order in ([0, 1, 2, 3], [2, 1, 0, 3]):
        guard.fit(model, (images, np.array(order)[classes]), **pixels)
        assert warned(caplog) == []


def test_names_at_other_logits_explain_what_they_explain() -> None:
    labels = np.repeat(np.arange(4), 20)
    assert renamed_accuracy(labels, labels) == 1
    assert renamed_accuracy(labels, np.array([2, 3, 0, 1])[labels]) == 1
    assert renamed_accuracy(np.arange(100), np.random.default_rng(0).permutation(100)) < 0.1
