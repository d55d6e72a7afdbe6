"""ReAct against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax
from pytorch_ood.detector import ReAct as Theirs

from guard.errors import ConfigError, DataError
from guard.heads import LastLayer
from guard.scores import create_score
from tests.guard.scores.conftest import Sample
from tests.references import relogits as reference
from tests.references import scores


@pytest.mark.parametrize("scale", [None, 16.0], ids=["linear", "cosine"])
@pytest.mark.parametrize("percentile", [5, 90, 100])
def test_against_its_definition(percentile: float, scale: float | None, sample: Sample) -> None:
    """The features have negative values."""
    last = sample.last._replace(scale=scale)
    score = create_score("react", percentile=percentile)
    score.fit(sample.features, sample.logits, sample.labels, last)
    layer = (last.weight.numpy(), last.bias.numpy(), scale)
    logits, threshold = reference.react(sample.queries.numpy(), sample.features.numpy(), layer, percentile)
    assert float(score.threshold) == pytest.approx(threshold, rel=1e-6)
    found = score(sample.queries, sample.query_logits).numpy()
    np.testing.assert_allclose(found, scores.energy(logits), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("base", "theirs"), [("energy", EnergyBased), ("msp", MaxSoftmax), ("max_logit", MaxLogit)], ids=lambda b: str(b)
)
def test_against_pytorch_ood(base: str, theirs: type, sample: Sample) -> None:
    """The same, percentile and all (theirs is a fraction)."""

    def head(h: torch.Tensor) -> torch.Tensor:
        return h @ sample.last.weight.T + sample.last.bias

    detector = Theirs(None, head, percentile=0.9, detector=theirs.score)  # type: ignore[arg-type]
    detector.fit_feature_maps(sample.features, sample.labels)
    score = create_score("react", base=base).fit(sample.features, sample.logits, sample.labels, sample.last)
    assert float(score.threshold) == pytest.approx(detector.threshold, rel=1e-6)
    expected = detector.predict_feature_maps(sample.queries)
    torch.testing.assert_close(score(sample.queries, sample.query_logits), expected, rtol=1e-5, atol=1e-4)


def test_a_bounded_sample_estimates_the_threshold() -> None:
    """1,000 of 20,000 rows of 16 exponential activations: the 90th percentile is log 10, its standard error 0.024."""
    g = torch.Generator().manual_seed(0)
    features = -torch.rand(20_000, 16, generator=g).clamp_min(1e-9).log()
    score = create_score("react", sample=1000)
    score.begin(16, 2, LastLayer(torch.ones(2, 16), None))
    for part in features.split(123):
        score.update(part, part[:, :2], torch.zeros(len(part), dtype=torch.long))
    assert len(score._reservoir.rows()) == 1000
    score.finish()
    assert float(score.threshold) == pytest.approx(np.log(10), abs=4 * 0.024)


def test_features_that_are_mostly_zero_are_refused() -> None:
    features = torch.zeros(100, 20)
    features[:, 0] = torch.rand(100, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(100, dtype=torch.long)
    with pytest.raises(DataError, match=r"percentile 90 of the activations is 0, their smallest; .*raise percentile"):
        create_score("react").fit(features, features[:, :2], labels, LastLayer(torch.ones(2, 20), None))
    score = create_score("react", percentile=99).fit(
        features, features[:, :2], labels, LastLayer(torch.ones(2, 20), None)
    )
    assert 0 < float(score.threshold) < 1


@pytest.mark.parametrize("percentile", [0, 100.1])
def test_percentiles_out_of_range_are_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match="option percentile: Input should be"):
        create_score("react", percentile=percentile)
