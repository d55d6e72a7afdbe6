"""The scores that belong to the cosine head and to the rejection network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.errors import ConfigError
from guard.heads import CosineHead, LinearHead
from guard.scores import create_score
from guard.scores.rejection import Rejection, rejection_loss
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


def test_cosine_of_a_linear_layer(sample: Sample) -> None:
    score = create_score("cosine").fit(sample.features, sample.logits, sample.labels, sample.last)
    expected = reference.cosine(sample.queries.numpy(), sample.last.weight.numpy())
    np.testing.assert_allclose(score(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_cosine_of_a_cosine_head_needs_its_logits_only(sample: Sample) -> None:
    torch.manual_seed(0)
    head = CosineHead(10, 3)
    score = create_score("cosine")
    score.begin(10, 3, head.last_layer())
    with torch.no_grad():
        head.log_scale.fill_(5.0)  # what was fitted is a snapshot
        logits = head(sample.queries) * float(np.exp(np.log(16.0) - 5.0))
    expected = reference.cosine(sample.queries.numpy(), head.weight.detach().numpy())
    np.testing.assert_allclose(score(torch.zeros(50, 10), logits).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_cosine_follows_the_layer_it_was_fitted_to_last(sample: Sample) -> None:
    torch.manual_seed(0)
    cosine_head, linear = CosineHead(10, 3), LinearHead(10, 3)
    score, fresh = create_score("cosine"), create_score("cosine")
    score.begin(10, 3, linear.last_layer())
    score.begin(10, 3, cosine_head.last_layer())
    fresh.begin(10, 3, cosine_head.last_layer())
    logits = cosine_head(sample.queries)
    assert score(sample.queries, logits).equal(fresh(sample.queries, logits))
    score.begin(10, 3, linear.last_layer())
    np.testing.assert_allclose(
        score(sample.queries, logits).numpy(),
        reference.cosine(sample.queries.numpy(), linear.linear.weight.detach().numpy()),
        rtol=1e-5,
        atol=1e-6,
    )


def test_rejection_is_its_two_layers_written_out(sample: Sample) -> None:
    torch.manual_seed(0)
    score = Rejection(hidden=6)
    score.build(10)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in score.parameters())
    expected = [float((w2 @ np.maximum(w1 @ h + b1, 0) + b2)[0]) for h in sample.queries.double().numpy()]
    ours = score(sample.queries, sample.query_logits).detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_rejection_on_the_map_reads_it_flat() -> None:
    torch.manual_seed(0)
    score = Rejection(hidden=6, tap="map")
    score.build(2 * 3 * 3)
    feature_map = torch.randn(4, 2, 3, 3)
    assert score.uses_map
    flat = score.mlp(feature_map.reshape(4, 18)).squeeze(-1)
    assert score(torch.zeros(4, 2), torch.zeros(4, 2), feature_map).equal(flat)
    with pytest.raises(ConfigError, match="tap='map' needs a backbone that shows its feature map"):
        score(torch.zeros(4, 2), torch.zeros(4, 2))


def test_rejection_refuses_another_tap() -> None:
    with pytest.raises(ConfigError, match=r"score 'rejection' option tap: .*'pooled' or 'map', got 'logits'"):
        create_score("rejection", tap="logits")


def test_rejection_loss_is_the_mean_binary_cross_entropy() -> None:
    logits, outlier = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = -np.mean([np.log(1 - p[0]), np.log(p[1]), np.log(p[2])])
    assert rejection_loss(logits, outlier).item() == pytest.approx(expected, rel=1e-6)
