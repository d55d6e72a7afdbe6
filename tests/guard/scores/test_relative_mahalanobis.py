"""Relative Mahalanobis against two complete distances, pytorch-ood and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import RMD

from guard.errors import DataError
from guard.scores import create_score
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.3, 1.0])
def test_against_its_definition(sample: Sample, shrinkage: float) -> None:
    score = create_score("relative_mahalanobis", shrinkage=shrinkage)
    score.fit(sample.features, sample.logits, sample.labels)
    expected = reference.RelativeMahalanobis(sample.features.numpy(), sample.labels.numpy(), shrinkage)
    np.testing.assert_allclose(
        score(sample.queries, sample.query_logits).numpy(), expected(sample.queries.numpy()), rtol=2e-5, atol=2e-4
    )


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_normalised_features_against_their_definition(sample: Sample, exponent: float) -> None:
    z, asked = (reference.radially_normalised(x.numpy(), exponent) for x in (sample.features, sample.queries))
    expected = reference.RelativeMahalanobis(z, sample.labels.numpy(), 1e-4)
    score = create_score("relative_mahalanobis", normalise=exponent)
    found = score.fit(sample.features, sample.logits, sample.labels)(sample.queries, sample.query_logits)
    np.testing.assert_allclose(found.numpy(), expected(asked), rtol=1e-4, atol=1e-3)


def test_against_pytorch_ood(sample: Sample) -> None:
    """Both its covariances are scatters, not divided by N (plus 1e-6 I): its score is ours / N."""
    theirs = RMD(None).fit_features(sample.features, sample.labels)
    ours = create_score("relative_mahalanobis", shrinkage=0).fit(sample.features, sample.logits, sample.labels)
    expected = len(sample.labels) * theirs.predict_features(sample.queries).numpy()
    np.testing.assert_allclose(ours(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-4, atol=2e-3)


def test_the_difference_of_two_large_distances_keeps_its_digits(sample: Sample) -> None:
    """Far off along a direction that says nothing of the class, both distances are 1e10 and the score is of order 1."""
    score = create_score("relative_mahalanobis").fit(sample.features, sample.logits, sample.labels)
    expected = reference.RelativeMahalanobis(sample.features.numpy(), sample.labels.numpy(), 1e-4)
    away = torch.linalg.svd(score.projection.double().T)[2][-1]  # the projection does not see it
    start = sample.queries[:1].double()
    far = (start + 1e5 * away).float()
    both = [float((far.double() - m) @ torch.tensor(expected.tied) @ (far.double() - m).T) for m in score.centre[None]]
    assert both[0] > 1e9
    moved, still = score(far, sample.logits[:1]), score(start.float(), sample.logits[:1])
    np.testing.assert_allclose(moved.numpy(), still.numpy(), atol=0.5)


def test_features_far_from_zero_do_not_cancel(sample: Sample) -> None:
    far = 1000.0
    score = create_score("relative_mahalanobis").fit(sample.features.double() + far, sample.logits, sample.labels)
    still = create_score("relative_mahalanobis").fit(sample.features, sample.logits, sample.labels)
    moved = score(sample.queries + far, sample.query_logits)
    np.testing.assert_allclose(moved.numpy(), still(sample.queries, sample.query_logits).numpy(), rtol=3e-3, atol=2e-2)


def test_classes_that_lie_far_apart_do_not_cancel(sample: Sample) -> None:
    """A collapsed network: the classes' means are 1,000 standard deviations apart, the scores of order 10."""
    apart = 1e3 * torch.nn.functional.one_hot(sample.labels, 10).float()
    features, queries = sample.features + apart, sample.features[:40] + apart[:40] + 0.5
    score = create_score("relative_mahalanobis").fit(features, sample.logits, sample.labels)
    expected = reference.RelativeMahalanobis(features.numpy(), sample.labels.numpy(), 1e-4)(queries.numpy())
    assert np.abs(expected).max() < 100
    np.testing.assert_allclose(score(queries, sample.logits[:40]).numpy(), expected, atol=0.02)


def test_more_classes_than_dimensions() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 12
    features = 4 * torch.randn(12, 5, generator=g)[labels] + torch.randn(400, 5, generator=g)
    score = create_score("relative_mahalanobis").fit(features, torch.zeros(400, 12), labels)
    assert score.projection.shape == (5, 5)
    expected = reference.RelativeMahalanobis(features.numpy(), labels.numpy(), 1e-4)
    np.testing.assert_allclose(score(features, features).numpy(), expected(features.numpy()), rtol=2e-5, atol=2e-4)


def test_a_class_without_images_attracts_nothing(sample: Sample) -> None:
    wider = torch.cat([sample.logits, sample.logits[:, :1]], 1)
    four = create_score("relative_mahalanobis").fit(sample.features, wider, sample.labels)
    three = create_score("relative_mahalanobis").fit(sample.features, sample.logits, sample.labels)
    queries = torch.cat([sample.queries, torch.zeros(1, 10)])  # where the missing class's mean would be
    torch.testing.assert_close(four(queries, wider[:51]), three(queries, wider[:51]))


def test_more_dimensions_than_images_are_shrunk() -> None:
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    with pytest.raises(DataError, match=r"'relative_mahalanobis'.* singular with shrinkage=0.0; use a larger one"):
        create_score("relative_mahalanobis", shrinkage=0).fit(wide, wide[:, :2], labels)
    score = create_score("relative_mahalanobis").fit(wide, wide[:, :2], labels)
    assert score(wide, wide[:, :2]).isfinite().all()
