"""Label-mixup: which classes are mixed and how, what is decoded, which score a head gets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from guard.errors import ConfigError
from tests.composition import stages_of
from tests.conftest import Arrays
from train.generators.diffusion import DiffusionOptions, register_diffusion
from train.methods import get_method
from train.methods.label_mixup import LabelMixupImages, at_usual_length, pair_weights, spread_pairs
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.store.drawing import Stored
from train.runs.resolve import score_for

NO_BATCH = IDBatch(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4))


class Weights:
    """A "diffusion model" whose e are the weights themselves, and whose images show 50 e as columns."""

    times = 10

    def __init__(self, context: PrepareContext, options: DiffusionOptions) -> None:
        self.width = len(context.data.class_names)
        self.own_size, self.latent_shape = (2, self.width), (1, 2, self.width)
        self.asked: list[torch.Tensor] = []

    def condition(self, classes: torch.Tensor) -> torch.Tensor:
        return classes

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, None, ..., 0].float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).to(torch.uint8)

    def noise_loss(self, latents: torch.Tensor, e: torch.Tensor, classes: torch.Tensor, **_: Any) -> torch.Tensor:
        return e.sum(-1)

    def latents(self, e: torch.Tensor, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.asked.append(classes)
        return (50 * e)[:, None, None].expand(-1, 1, 2, -1)

    def sample(self, e: torch.Tensor, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.decode(self.latents(e, classes, generator))


register_diffusion("weights", Weights)


@pytest.fixture
def context(tmp_path: Any) -> PrepareContext:
    images = np.zeros((8, 2, 4, 3), np.uint8)
    return PrepareContext(None, load((images, np.arange(8) % 4)), tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_every_pair_comes_equally_often_in_either_order(classes: int) -> None:
    pairs = spread_pairs(20 * classes**2, classes, torch.Generator().manual_seed(0))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = Counter(frozenset(pair) for pair in pairs.tolist())
    assert len(counts) == classes * (classes - 1) // 2
    assert max(counts.values()) - min(counts.values()) <= 1
    first_is_smaller = float((pairs[:, 0] < pairs[:, 1]).float().mean())
    assert 0.3 < first_is_smaller < 0.7


def test_weights_are_sums_of_one_hots_unless_asked_otherwise() -> None:
    pairs = torch.tensor([[0, 2], [2, 1]])
    assert pair_weights(pairs, 3, None, "none").tolist() == [[1, 0, 1], [0, 1, 1]]
    assert pair_weights(pairs, 3, None, "mean").tolist() == [[0.5, 0, 0.5], [0, 0.5, 0.5]]
    weighted = torch.tensor([[0.25, 0, 0.75], [0, 0.75, 0.25]])
    assert pair_weights(pairs, 3, 0.25, "none").allclose(weighted)
    assert pair_weights(pairs, 3, 0.25, "mean").allclose(weighted)


@pytest.mark.parametrize(
    ("options", "shown"),
    [({}, (50, 50)), ({"normalise": "mean"}, (25, 25)), ({"mix_alpha": 0.8}, (40, 10))],
)
def test_what_is_decoded_is_the_mixture_of_its_parents(
    context: PrepareContext, options: dict[str, Any], shown: tuple[int, int]
) -> None:
    synthesiser = LabelMixupImages(12, 4, diffusion="weights", **options)
    with pytest.raises(ConfigError, match="call prepare before sample"):
        synthesiser.sample(NO_BATCH, torch.Generator())
    synthesiser.prepare(context)
    made = synthesiser.sample(NO_BATCH, torch.Generator().manual_seed(0))
    assert made.parents is not None
    for image, (a, b) in zip(made.data, made.parents.tolist(), strict=True):
        columns = torch.zeros(4, dtype=torch.uint8)
        columns[a], columns[b] = shown
        assert image[0, :, 0].equal(columns)
    assert synthesiser._model.get().asked[0].equal(made.parents[:, 0])  # type: ignore[attr-defined]


def test_images_of_another_size_are_resized_by_the_kernel_asked_for(context: PrepareContext) -> None:
    small = replace(context, data=load((np.zeros((8, 6, 6, 3), np.uint8), np.arange(8) % 4)))
    synthesiser = LabelMixupImages(6, 4, diffusion="weights", resize_kernel="both")
    synthesiser.prepare(small)
    made = synthesiser.sample(NO_BATCH, torch.Generator().manual_seed(0))
    assert made.data.shape == (12, 6, 6, 3)
    assert made.parents is not None
    assert made.parents[0::2].equal(made.parents[1::2])
    assert set(made.data[0].flatten().tolist()) == {0, 50}  # nearest makes no new levels
    synthesiser.prepare(context)  # of the model's own size: nothing to resize, and nothing twice
    assert len(synthesiser.sample(NO_BATCH, torch.Generator().manual_seed(0)).data) == 6


@pytest.mark.parametrize(
    ("head", "score"),
    [(None, "msp"), ("linear", "msp")]
    + [(head, "cosine") for head in ("cosine", "adacos", "arcface", "cosface", "sphereface")],
)
def test_angular_heads_get_the_largest_cosine(head: str | None, score: str, four: Arrays) -> None:
    method = get_method("label_mixup")
    assert score_for(method(method.Options()), method.head_scores.get(str(head)), {}).name == score
    options = {"diffusion": "weights", "store_size": 8, "device": "cpu", "epochs": 1, "backbone": "wrn10_2"}
    g = guard.train((four[0][:160], four[1][:160]), method="label_mixup", head=head, lr=0.01, **options)  # type: ignore[arg-type]
    assert (g.manifest.head, g.manifest.score) == (head or "linear", score)
    assert np.isfinite(g.predict(four[0][:8]).ood_score).all()


def test_a_score_that_is_asked_for_stays(four: Arrays) -> None:
    options = {"diffusion": "weights", "store_size": 8, "device": "cpu", "epochs": 1, "backbone": "wrn10_2"}
    g = guard.train((four[0][:160], four[1][:160]), method="label_mixup", head="cosine", score="energy", **options)  # type: ignore[arg-type]
    assert g.manifest.score == "energy"


def test_its_images_can_be_matched_to_in_distribution_ones() -> None:
    (only,) = stages_of("label_mixup", match="contrast", store_size=7, ratio=0.5)
    assert isinstance(only.synthesiser, Stored)
    assert (only.synthesiser.match, only.synthesiser.total) == (("contrast",), 7)


def test_a_sum_can_be_brought_to_the_usual_length() -> None:
    anchors = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # 5 and 1 long
    e = at_usual_length(anchors.sum(0, keepdim=True), anchors)
    torch.testing.assert_close(e, 3 * torch.tensor([[3.0, 5.0]]) / 34**0.5)
