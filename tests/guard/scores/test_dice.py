"""DICE against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import DICE as Theirs

from guard.errors import ConfigError
from guard.heads import LastLayer
from guard.scores import create_score
from guard.scores.dice import dice_mask
from tests.guard.scores.conftest import Sample
from tests.references import relogits as reference
from tests.references import scores


@pytest.mark.parametrize("scale", [None, 16.0], ids=["linear", "cosine"])
@pytest.mark.parametrize("percentile", [0, 50, 90, 99.9])
def test_against_its_definition(percentile: float, scale: float | None, sample: Sample) -> None:
    """The features have negative values, and class 0 is longer. Of 30 weights the 99.9th percentile leaves one."""
    last = sample.last._replace(scale=scale)
    features = torch.where((sample.labels == 0)[:, None], 20 * sample.features, sample.features)
    score = create_score("dice", percentile=percentile).fit(features, sample.logits, sample.labels, last)
    layer = (last.weight.numpy(), last.bias.numpy(), scale)
    logits, kept = reference.dice(sample.queries.numpy(), features.numpy(), layer, percentile)
    np.testing.assert_array_equal(score.weight.numpy() != 0, kept)
    assert kept.sum() == {0: 30, 50: 15, 90: 3, 99.9: 1}[percentile]
    found = score(sample.queries, sample.query_logits).numpy()
    np.testing.assert_allclose(found, scores.energy(logits), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("percentile", [10, 50, 90])
def test_against_pytorch_ood(percentile: int, sample: Sample) -> None:
    """The same where no weight lies on the percentile itself; theirs is a fraction, and drops such a weight."""
    theirs = Theirs(None, sample.last.weight, sample.last.bias, p=percentile / 100)
    theirs.fit_features(sample.features, sample.labels)
    score = create_score("dice", percentile=percentile)
    score.fit(sample.features, sample.logits, sample.labels, sample.last)
    assert torch.equal(score.weight, theirs.masked_w)
    expected = theirs.predict_features(sample.queries)
    torch.testing.assert_close(score(sample.queries, sample.query_logits), expected, rtol=1e-5, atol=1e-4)


def test_a_weight_on_the_percentile_is_kept_with_its_equals() -> None:
    """theirs would drop all of them, and at percentile 0 the smallest of any layer."""
    weight, mean = torch.tensor([[1.0, 2.0, 2.0], [2.0, 4.0, 4.0]]), torch.ones(3)
    assert dice_mask(weight, mean, 60).tolist() == [[False, True, True], [True, True, True]]
    assert dice_mask(weight, mean, 61).tolist() == [[False, False, False], [False, True, True]]
    assert dice_mask(weight, mean, 0).all()
    assert dice_mask(torch.ones(2, 3), mean, 90).all()


def test_a_dead_feature_contributes_nothing(sample: Sample) -> None:
    """A feature that was 0 in training has no say later, whatever its weight."""
    features, last = sample.features.abs(), LastLayer(sample.last.weight.abs() + 1, sample.last.bias)
    features[:, 4] = 0
    score = create_score("dice", percentile=50).fit(features, sample.logits, sample.labels, last)
    woken = sample.queries.clone()
    woken[:, 4] += 100
    assert torch.equal(score(woken, sample.query_logits), score(sample.queries, sample.query_logits))


def test_a_class_that_dominates_takes_all_the_weights() -> None:
    """The percentile is over the whole matrix: the other classes keep their bias alone."""
    weight = torch.cat([torch.full((1, 10), 5.0), 0.1 * torch.rand(9, 10, generator=torch.Generator().manual_seed(0))])
    features = torch.rand(50, 10, generator=torch.Generator().manual_seed(1))
    last = LastLayer(weight, torch.zeros(10))
    score = create_score("dice").fit(features, features @ weight.T, torch.zeros(50, dtype=torch.long), last)
    assert (score.weight != 0).sum(1).tolist() == [10] + 9 * [0]


def test_a_million_images_keep_the_mean(sample: Sample) -> None:
    """In float32 the sum would stop growing at 2^24 of the unit in its last place."""
    score = create_score("dice")
    score.begin(2, 3, LastLayer(torch.ones(3, 2), None))
    batch = torch.tensor([[1e4 + 1, 0.1]]).expand(100_000, 2)
    for _ in range(10):
        score.update(batch, batch, torch.zeros(len(batch), dtype=torch.long))
    mean = score._sum / score._count
    np.testing.assert_allclose(mean.numpy(), [1e4 + 1, 0.1], rtol=1e-7)


def test_dropping_every_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="option percentile: Input should be less than 100"):
        create_score("dice", percentile=100)
