"""SHE against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import SHE as Theirs

from guard.scores import create_score
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


@pytest.fixture(scope="module")
def labels(sample: Sample) -> torch.Tensor:
    """What the random classifier says, for two of three images: every class has right and wrong ones."""
    right = sample.logits.argmax(-1)
    return torch.where(torch.arange(len(right)) % 3 == 0, sample.labels, right)


def test_against_its_definition(sample: Sample, labels: torch.Tensor) -> None:
    score = create_score("she").fit(sample.features, sample.logits, labels)
    expected = reference.SHE(sample.features.numpy(), sample.logits.numpy(), labels.numpy())
    np.testing.assert_allclose(
        score(sample.queries, sample.query_logits).numpy(),
        expected(sample.queries.numpy(), sample.query_logits.numpy()),
        rtol=1e-5,
        atol=1e-4,
    )


def test_against_pytorch_ood(sample: Sample, labels: torch.Tensor) -> None:
    theirs = Theirs(None, lambda h: h @ sample.last.weight.T + sample.last.bias).fit_features(sample.features, labels)
    ours = create_score("she").fit(sample.features, sample.logits, labels)
    np.testing.assert_allclose(
        ours(sample.queries, sample.query_logits).numpy(),
        theirs.predict_features(sample.queries).numpy(),
        rtol=1e-5,
        atol=1e-4,
    )


def test_a_class_never_classified_correctly_has_the_mean_of_its_images() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 6.0], [9.0, 9.0]])
    logits = torch.eye(3)[[0, 0, 0, 0, 0]]
    score = create_score("she").fit(features, logits, torch.tensor([0, 0, 1, 1, 1]))
    assert score.patterns.tolist() == [[2.0, 0.0], [3.0, pytest.approx(17 / 3)], [0.0, 0.0]]


def test_a_wrongly_classified_image_does_not_count_where_another_is_right() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [100.0, 100.0]])
    score = create_score("she").fit(features, torch.eye(2)[[0, 0, 1]], torch.tensor([0, 0, 0]))
    assert score.patterns[0].tolist() == [2.0, 0.0]
