"""Mahalanobis against its definition, pytorch-ood and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import Mahalanobis as Theirs

from guard.errors import DataError
from guard.scores import create_score
from guard.scores.mahalanobis import Mahalanobis
from guard.scores.moments import ClassMoments, shrunk
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.3, 1.0])
def test_against_its_definition(sample: Sample, shrinkage: float) -> None:
    score = create_score("mahalanobis", shrinkage=shrinkage).fit(sample.features, sample.logits, sample.labels)
    means, covariance = reference.tied_covariance(sample.features.numpy(), sample.labels.numpy(), shrinkage)
    expected = reference.mahalanobis(sample.queries.numpy(), means, covariance)
    np.testing.assert_allclose(score(sample.queries, sample.query_logits).numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_normalised_features_against_their_definition(sample: Sample, exponent: float) -> None:
    """With exponent 1 this is Mahalanobis++."""
    z, asked = (reference.radially_normalised(x.numpy(), exponent) for x in (sample.features, sample.queries))
    means, covariance = reference.tied_covariance(z, sample.labels.numpy(), 1e-4)
    score = create_score("mahalanobis", normalise=exponent).fit(sample.features, sample.logits, sample.labels)
    found = score(sample.queries, sample.query_logits).numpy()
    np.testing.assert_allclose(found, reference.mahalanobis(asked, means, covariance), rtol=1e-4)


def test_on_the_sphere_the_length_does_not_matter(sample: Sample) -> None:
    score = create_score("mahalanobis", normalise=1).fit(sample.features, sample.logits, sample.labels)
    near, far = (score(scale * sample.queries, sample.query_logits) for scale in (1e-3, 1e3))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
    assert score(torch.zeros(1, 10), sample.query_logits[:1]).isfinite().all()


def test_against_pytorch_ood(sample: Sample) -> None:
    """Its score carries a factor 1/2; its covariance is, by version, the scatter, or divided by N - 1 (plus 1e-6 I)."""
    theirs = Theirs(None)
    theirs.fit_features(sample.features, sample.labels)
    multiple = float(theirs.cov.trace()) / np.trace(_covariance(sample))  # of the biased covariance
    ours = create_score("mahalanobis", shrinkage=0).fit(sample.features, sample.logits, sample.labels)
    scaled = 0.5 / multiple * ours(sample.queries, sample.query_logits)
    np.testing.assert_allclose(scaled.numpy(), theirs.predict_features(sample.queries).numpy(), rtol=1e-4)


def _covariance(sample: Sample) -> np.ndarray:
    return reference.tied_covariance(sample.features.numpy(), sample.labels.numpy(), 0)[1]


def test_features_far_from_zero_do_not_cancel(sample: Sample) -> None:
    """Everything moved by 1,000: float32 must still see distances of the order of 10."""
    far = 1000.0
    score = create_score("mahalanobis").fit(sample.features.double() + far, sample.logits, sample.labels)
    still = create_score("mahalanobis").fit(sample.features, sample.logits, sample.labels)
    moved = score(sample.queries + far, sample.query_logits)
    np.testing.assert_allclose(moved.numpy(), still(sample.queries, sample.query_logits).numpy(), rtol=3e-3, atol=3e-3)


def test_classes_that_lie_far_apart_do_not_cancel(sample: Sample) -> None:
    """A collapsed network: the classes' means are 1,000 standard deviations apart, the scores of order 10."""
    apart = 1e3 * torch.nn.functional.one_hot(sample.labels, 10).float()
    features, queries = sample.features + apart, sample.features[:40] + apart[:40] + 0.5
    score = create_score("mahalanobis").fit(features, sample.logits, sample.labels)
    means, covariance = reference.tied_covariance(features.numpy(), sample.labels.numpy(), 1e-4)
    expected = reference.mahalanobis(queries.numpy(), means, covariance)
    np.testing.assert_allclose(score(queries, sample.logits[:40]).numpy(), expected, rtol=1e-3)


def test_an_image_a_million_away_is_scored_to_float32(sample: Sample) -> None:
    score = create_score("mahalanobis").fit(sample.features, sample.logits, sample.labels)
    means, covariance = reference.tied_covariance(sample.features.numpy(), sample.labels.numpy(), 1e-4)
    queries = 1e6 * sample.queries[:5]
    expected = reference.mahalanobis(queries.numpy(), means, covariance)
    np.testing.assert_allclose(score(queries, sample.logits[:5]).numpy(), expected, rtol=1e-5)


def test_at_a_class_mean_the_distance_is_zero_and_never_far_below(sample: Sample) -> None:
    score = create_score("mahalanobis").fit(sample.features, sample.logits, sample.labels)
    means = torch.stack([sample.features[sample.labels == c].double().mean(0) for c in range(3)]).float()
    assert score(means, sample.logits[:3]).abs().max() < 1e-3


def test_a_class_without_images_attracts_nothing(sample: Sample) -> None:
    """With four classes of which one has no image, its zero mean must not become a place of low distance."""
    wider = torch.cat([sample.logits, sample.logits[:, :1]], 1)
    four = create_score("mahalanobis").fit(sample.features, wider, sample.labels)
    three = create_score("mahalanobis").fit(sample.features, sample.logits, sample.labels)
    queries = torch.cat([sample.queries, torch.zeros(1, 10)])
    torch.testing.assert_close(four(queries, wider[:51]), three(queries, wider[:51]))


def test_more_dimensions_than_images_are_shrunk(sample: Sample) -> None:
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    with pytest.raises(DataError, match=r"covariance is singular with shrinkage=0.0; use a larger one"):
        create_score("mahalanobis", shrinkage=0).fit(wide, wide[:, :2], labels)
    score = create_score("mahalanobis").fit(wide, wide[:, :2], labels)
    assert score(wide, wide[:, :2]).isfinite().all()


def test_moments_in_parts_equal_numpy(sample: Sample) -> None:
    moments = ClassMoments(3, 10)
    order = sample.labels.argsort()  # parts that lack whole classes
    for part in order.split(41):
        moments.update(sample.features[part] + 1e5, sample.labels[part])
    x = (sample.features + 1e5).double().numpy()
    for c in range(3):
        np.testing.assert_allclose(moments.mean[c].numpy(), x[sample.labels.numpy() == c].mean(0), rtol=1e-13)
    expected = reference.tied_covariance(x, sample.labels.numpy(), 0)[1]
    np.testing.assert_allclose(moments.covariance().numpy(), expected, rtol=1e-8)


def test_shrinkage_keeps_the_trace() -> None:
    a = torch.randn(6, 6, dtype=torch.float64)
    covariance = a @ a.T
    for s in (0.0, 0.25, 1.0):
        torch.testing.assert_close(shrunk(covariance, s).trace(), covariance.trace())
    assert shrunk(covariance, 0.0).equal(covariance)


def test_fitted_state_is_float32_whatever_the_features_were(sample: Sample) -> None:
    score = Mahalanobis()
    score.fit(sample.features.double(), sample.logits.double(), sample.labels)
    assert {value.dtype for value in score.state_dict().values()} == {torch.float32}
