"""fDBD and NCI against their definitions and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import NCI as TheirNCI
from pytorch_ood.detector import fDBD as TheirFDBD

from guard.errors import ModelError
from guard.heads import LastLayer, unit
from guard.heads.boundary import inverse_gaps
from guard.scores import create_score
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference

NAMES = ["fdbd", "nci"]


def layer(sample: Sample) -> torch.nn.Linear:
    linear = torch.nn.Linear(10, 3)
    linear.load_state_dict({"weight": sample.last.weight, "bias": sample.last.bias})
    return linear.requires_grad_(False)


def arrays(sample: Sample) -> tuple[np.ndarray, ...]:
    parts = (sample.queries, sample.features, sample.last.weight, sample.last.bias)
    return tuple(part.numpy() for part in parts)


def test_fdbd_against_its_definition_and_pytorch_ood(sample: Sample) -> None:
    score = create_score("fdbd").fit(sample.features, sample.logits, sample.labels, sample.last)
    found = score(sample.queries, sample.query_logits).numpy()
    np.testing.assert_allclose(found, reference.fdbd(*arrays(sample)), rtol=1e-5, atol=1e-6)
    theirs = TheirFDBD(None, layer(sample)).fit_features(sample.features)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, theirs.predict_features(sample.queries).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5])
def test_nci_against_its_definition_and_pytorch_ood(sample: Sample, alpha: float) -> None:
    score = create_score("nci", alpha=alpha).fit(sample.features, sample.logits, sample.labels, sample.last)
    found = score(sample.queries, sample.query_logits).numpy()
    np.testing.assert_allclose(found, reference.nci(*arrays(sample), alpha), rtol=1e-5, atol=1e-5)
    theirs = TheirNCI(None, layer(sample), alpha=alpha)  # type: ignore[arg-type]
    theirs.fit_features(sample.features, sample.labels)
    np.testing.assert_allclose(found, theirs.predict_features(sample.queries).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_cosine_layer_features_are_on_the_sphere(sample: Sample, name: str) -> None:
    """The same as of a linear layer with weights of length s, no bias and features of length 1."""
    cosine = LastLayer(sample.last.weight, None, scale=16.0)
    flat = LastLayer(16.0 * unit(sample.last.weight), torch.zeros(3))
    features, queries = unit(sample.features), unit(sample.queries)
    logits, asked = features @ flat.weight.T, queries @ flat.weight.T
    ours = create_score(name).fit(sample.features, logits, sample.labels, cosine)
    same = create_score(name).fit(features, logits, sample.labels, flat)
    torch.testing.assert_close(ours(sample.queries, asked), same(queries, asked), rtol=1e-5, atol=1e-5)


def test_two_classes_of_equal_weights_have_no_boundary() -> None:
    gaps = inverse_gaps(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert gaps.isfinite().all()
    assert gaps[0, 1] == 0
    assert gaps[0, 2] == pytest.approx(1 / (2 * 2**0.5))


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_at_the_training_mean_has_a_finite_score(sample: Sample, name: str) -> None:
    score = create_score(name).fit(sample.features, sample.logits, sample.labels, sample.last)
    assert score(score.centre[None], sample.logits[:1]).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_last_layer_it_says_what_to_use(sample: Sample, name: str) -> None:
    with pytest.raises(ModelError, match=f"score '{name}' needs the weights of a last linear or cosine layer; use"):
        create_score(name).fit(sample.features, sample.logits, sample.labels)
