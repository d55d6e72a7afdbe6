"""The loss of turns against its definition on a network made by hand, the turned copies, and the warning."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import FeatureClassifier, Outputs
from guard.manifest import Normalisation
from guard.scores import create_score
from guard.scores.rotation import Rotation
from train.losses.base import Batch
from train.losses.rotation import RotationLoss, turned_copies
from train.outliers.base import IDBatch, PrepareContext

N, SIDE = 8, 5


def batch_of(n: int = N, channels: int = 3) -> IDBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, SIDE, SIDE, channels), dtype=torch.uint8, generator=generator)
    return IDBatch(images, torch.arange(n) % 2)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestTurnedCopies:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 1.75, 3.0])
    def test_each_is_a_row_of_the_batch_turned_as_its_label_says(self, ratio: float, channels: int) -> None:
        batch = batch_of(channels=channels)
        copies = turned_copies(batch, ratio, generator())
        assert copies.rows is not None
        assert len(copies.images) == len(copies.labels) == max(1, round(ratio * N))
        for image, quarters, row in zip(copies.images, copies.labels, copies.rows, strict=True):
            np.testing.assert_array_equal(image, np.rot90(batch.images[row].numpy(), int(quarters)))

    def test_three_per_image_are_all_turns_and_none_is_there_twice(self) -> None:
        copies = turned_copies(batch_of(), 3.0, generator())
        assert copies.rows is not None
        pairs = sorted(zip(copies.rows.tolist(), copies.labels.tolist(), strict=True))
        assert pairs == [(row, quarters) for row in range(N) for quarters in (1, 2, 3)]

    @pytest.mark.parametrize("ratio", [0.5, 1.5, 2.0])
    def test_fewer_are_of_different_turns_and_equally_often_each(self, ratio: float) -> None:
        copies = turned_copies(batch_of(600), ratio, generator())
        assert copies.rows is not None
        pairs = set(zip(copies.rows.tolist(), copies.labels.tolist(), strict=True))
        assert len(pairs) == len(copies.labels) == 600 * ratio
        for quarters in (1, 2, 3):
            assert abs(int((copies.labels == quarters).sum()) - 200 * ratio) < 40

    def test_the_generator_decides_which(self) -> None:
        first, again, other = (turned_copies(batch_of(50), 1.0, generator(seed)).labels for seed in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)


class Pair(FeatureClassifier):
    """Two features: the mean of the top row of pixels, and of the left column."""

    num_features = 2

    def forward(self, x: Tensor) -> Outputs:
        features = torch.stack([x[:, :, 0].mean((1, 2)), x[:, :, :, 0].mean((1, 2))], 1)
        return Outputs(features, features, None)

    def last_layer(self) -> None:
        return None


def by_hand(features: Tensor) -> Outputs:
    return Outputs(features, features, None)


def slow(loss: RotationLoss, features: list[list[float]], turns: list[int]) -> float:
    """Mean cross-entropy of g over images, one at a time."""
    w, b = loss.layer.weight.detach().double().numpy(), loss.layer.bias.detach().double().numpy()
    terms = []
    for h, turn in zip(features, turns, strict=True):
        g = [sum(w[r][d] * h[d] for d in range(2)) + b[r] for r in range(4)]
        terms.append(math.log(sum(math.exp(v) for v in g)) - g[turn])
    return sum(terms) / len(terms)


def shown(upright: list[list[float]], others: list[list[float]], turns: list[int]) -> Batch:
    outside = by_hand(torch.full((3, 2), 1e3))  # outliers, which it must not read
    labels = torch.zeros(len(upright), dtype=torch.int64)
    further = by_hand(torch.tensor(others))
    inliers = by_hand(torch.tensor(upright))
    return Batch(inliers, labels, outside, further=further, further_labels=torch.tensor(turns))


UPRIGHT = [[1.0, -0.5], [0.2, 2.0]]


def test_with_every_turn_it_is_the_mean_over_all_four() -> None:
    others, turns = [[0.3, 0.1], [-1.0, 0.4], [0.9, 0.9], [-2.0, 0.0], [0.1, 0.7], [1.5, -1.0]], [1, 1, 2, 2, 3, 3]
    loss = RotationLoss(2, weight=0.7)
    expected = 0.7 * slow(loss, UPRIGHT + others, [0, 0, *turns])
    assert loss.loss(shown(UPRIGHT, others, turns))["rotation"].item() == pytest.approx(expected, rel=1e-5)


def test_with_fewer_turns_they_weigh_three_quarters_all_the_same() -> None:
    loss = RotationLoss(2, ratio=0.5)
    expected = 0.25 * slow(loss, UPRIGHT, [0, 0]) + 0.75 * slow(loss, [[0.3, 0.1]], [2])
    assert loss.loss(shown(UPRIGHT, [[0.3, 0.1]], [2]))["rotation"].item() == pytest.approx(expected, rel=1e-5)


def test_the_learned_layer_goes_into_the_rotation_score_and_no_other() -> None:
    loss, score = RotationLoss(2), create_score("rotation")
    assert isinstance(score, Rotation)
    loss.hand_over(score)
    loss.hand_over(create_score("energy"))
    assert score.weight.equal(loss.layer.weight)
    assert score.bias.equal(loss.layer.bias)
    assert not score.weight.requires_grad


def context(height: int, width: int, tmp_path: Path) -> PrepareContext:
    images = np.zeros((4, height, width, 3), np.uint8)
    module = GuardModule(Pair(), create_score("energy"), Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3))
    return PrepareContext(module, load((images, np.arange(4) % 2)), tmp_path, 0, torch.device("cpu"))


def test_images_that_turning_reshapes_are_refused_with_the_fix(tmp_path: Path) -> None:
    RotationLoss(2).check(context(6, 6, tmp_path))
    with pytest.raises(ConfigError, match=r"6 x 8 pixels.*image_size=6"):
        RotationLoss(2).check(context(6, 8, tmp_path))


class TestExamine:
    """Images with a bright top row, of which `Pair` shows where it is after a turn; or the same all over."""

    def examined(self, images: np.ndarray, caplog: pytest.LogCaptureFixture) -> tuple[float, list[logging.LogRecord]]:
        loss = RotationLoss(2)
        with torch.no_grad():  # bright on top: 0 quarters; on the left: 1; neither: 2 and 3
            loss.layer.weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 2.0], [-1.0, -1.0], [-1.0, -1.0]]))
            loss.layer.bias.copy_(torch.tensor([0.0, 0.0, 0.8, -9.0]))
        normalisation = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)
        module = GuardModule(Pair(), create_score("rotation"), normalisation)
        data = load(images, labelled=False)
        with caplog.at_level(logging.INFO, logger="ood_guard"):
            loss.examine(module, data)
        return loss.share_told(module, data), caplog.records

    def test_what_is_told_apart_is_measured(self, caplog: pytest.LogCaptureFixture) -> None:
        images = np.zeros((40, 6, 6, 3), np.uint8)
        images[:, 0] = 255
        told, records = self.examined(images, caplog)
        assert told == 0.75  # a bright row at the bottom and on the right look alike to `Pair`
        assert [r.levelname for r in records] == ["INFO"]

    def test_images_without_an_up_get_one_warning_with_the_number(self, caplog: pytest.LogCaptureFixture) -> None:
        told, records = self.examined(np.zeros((40, 6, 6, 3), np.uint8), caplog)
        assert told == 0.25
        assert [r.levelname for r in records] == ["WARNING"]
        assert "only 25.0 % of the four turns of 40 held-out images" in records[0].getMessage()
        assert "score 'rotation' cannot work on this data" in records[0].getMessage()
