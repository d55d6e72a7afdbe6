"""ViM against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import ViM as Theirs

from guard.errors import ConfigError, DataError, ModelError
from guard.heads import LastLayer
from guard.scores import create_score
from guard.scores.vim import default_dim
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


@pytest.mark.parametrize("dim", [1, 4, 9])
def test_against_its_definition(sample: Sample, dim: int) -> None:
    score = create_score("vim", dim=dim).fit(sample.features, sample.logits, sample.labels, sample.last)
    weight, bias = sample.last.weight.numpy(), sample.last.bias.numpy()
    expected = reference.ViM(sample.features.numpy(), sample.logits.numpy(), weight, bias, dim)
    np.testing.assert_allclose(
        score(sample.queries, sample.query_logits).numpy(),
        expected(sample.queries.numpy(), sample.query_logits.numpy()),
        rtol=1e-4,
        atol=1e-4,
    )
    assert float(score.alpha) == pytest.approx(expected.alpha, rel=1e-5)


@pytest.mark.parametrize("dim", [1, 4, 9])
def test_the_residual_against_its_definition(sample: Sample, dim: int) -> None:
    score = create_score("residual", dim=dim).fit(sample.features, sample.logits, sample.labels, sample.last)
    weight, bias = sample.last.weight.numpy(), sample.last.bias.numpy()
    expected = reference.residual(sample.queries.numpy(), sample.features.numpy(), weight, bias, dim)
    np.testing.assert_allclose(score(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_residual_is_vims_without_the_energy(sample: Sample) -> None:
    alone = create_score("residual", dim=4).fit(sample.features, sample.logits, sample.labels, sample.last)
    whole = create_score("vim", dim=4).fit(sample.features, sample.logits, sample.labels, sample.last)
    distance = whole.alpha * alone(sample.queries, sample.query_logits)
    torch.testing.assert_close(distance - sample.query_logits.logsumexp(-1), whole(sample.queries, sample.query_logits))


def test_against_pytorch_ood(sample: Sample) -> None:
    theirs = Theirs(None, d=4, w=sample.last.weight, b=sample.last.bias)
    theirs.fit_features(sample.features, sample.labels)
    ours = create_score("vim", dim=4).fit(sample.features, sample.logits, sample.labels, sample.last)
    expected = theirs.predict_features(sample.queries).numpy()
    np.testing.assert_allclose(ours(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-4, atol=1e-3)


def test_a_layer_without_bias_has_its_origin_at_zero(sample: Sample) -> None:
    last = LastLayer(sample.last.weight, None)
    score = create_score("vim").fit(sample.features, sample.logits, sample.labels, last)
    assert score.origin.equal(torch.zeros(10))


def test_the_sample_behind_alpha_may_be_smaller_than_the_data(sample: Sample) -> None:
    """The mean residual of 150 of 300 images lies within four standard errors of the whole's."""
    whole = create_score("vim", dim=4).fit(sample.features, sample.logits, sample.labels, sample.last)
    part = create_score("vim", dim=4, sample=150).fit(sample.features, sample.logits, sample.labels, sample.last)
    norms = ((sample.features - whole.origin) @ whole.residual).norm(dim=-1)
    mean_whole, mean_part = 1 / float(whole.alpha), 1 / float(part.alpha)
    tolerance = 4 * float(norms.std() / norms.mean()) * (1 / 150 - 1 / 300) ** 0.5
    assert part.alpha != whole.alpha
    assert mean_part == pytest.approx(mean_whole, rel=tolerance)


def test_default_dims_are_the_fields() -> None:
    assert [default_dim(d) for d in (2, 64, 128, 511, 512, 768, 2048, 4096)] == [1, 32, 64, 255, 256, 512, 1000, 1000]


def test_a_principal_space_of_everything_is_refused(sample: Sample) -> None:
    with pytest.raises(ConfigError, match="dim must be below the 10 features, got 10"):
        create_score("vim", dim=10).fit(sample.features, sample.logits, sample.labels, sample.last)


@pytest.mark.parametrize("name", ["vim", "cosine"])
def test_a_classifier_without_a_last_layer_is_refused(sample: Sample, name: str) -> None:
    with pytest.raises(ModelError, match=f"score '{name}' needs .* last linear"):
        create_score(name).fit(sample.features, sample.logits, sample.labels, None)


def test_fewer_images_than_dimensions_keep_a_residual() -> None:
    """n images span n directions: with a principal space of all of them alpha would be without bound."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(60, 512, generator=random).relu()
    weight, bias = torch.randn(4, 512, generator=random), torch.randn(4, generator=random)
    logits = features @ weight.T + bias
    last = LastLayer(weight, bias)
    score = create_score("vim")
    score.fit(features, logits, torch.arange(60) % 4, last)
    assert score.residual.shape == (512, 512 - 30)
    assert float(score.alpha) < 100
    with pytest.raises(DataError, match=r"dim=200 needs more training images than that, got 60"):
        create_score("vim", dim=200).fit(features, logits, torch.arange(60) % 4, last)
