"""The last layer that ReAct, DICE and ASH recompute, and the scores that read it."""

from __future__ import annotations

import pytest
import torch

from guard.errors import ConfigError, ModelError
from guard.heads import LastLayer, create_head
from guard.scores import create_score
from guard.scores.relogits import flat_layer, relogits
from tests.guard.scores.conftest import Sample

NAMES = ["react", "dice", "ash"]
NEUTRAL = {"react": {"percentile": 100}, "dice": {"percentile": 0}, "ash": {"percentile": 0, "variant": "p"}}


@pytest.mark.parametrize("head", ["linear", "cosine", "sphereface"])
def test_the_heads_own_logits_come_back(head: str, sample: Sample) -> None:
    torch.manual_seed(0)
    made = create_head(head, 10, 3).eval()
    features = made.embed(sample.queries)
    found = relogits(features, *flat_layer(made.last_layer()))
    torch.testing.assert_close(found, made(features), rtol=1e-5, atol=1e-4)


def test_a_layer_without_bias_is_linear(sample: Sample) -> None:
    found = relogits(sample.queries, *flat_layer(LastLayer(sample.last.weight, None)))
    torch.testing.assert_close(found, sample.queries @ sample.last.weight.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [None, 7.0], ids=["linear", "cosine"])
def test_a_gain_is_a_factor_of_the_features(scale: float | None, sample: Sample) -> None:
    layer = flat_layer(sample.last._replace(scale=scale))
    gain = torch.linspace(-2, 5, 50)[:, None]
    found = relogits(sample.queries, *layer, gain)
    torch.testing.assert_close(found, relogits(gain * sample.queries, *layer), rtol=1e-5, atol=1e-4)


def test_a_cosine_layer_does_not_see_the_size_of_a_gain(sample: Sample) -> None:
    """Not even its rounding: equal scores stay equal in every runtime."""
    layer = flat_layer(sample.last._replace(scale=7.0))
    gains = [torch.full((50, 1), g) for g in (0.1, 3.0, 1e4)]
    found = [relogits(sample.queries, *layer, gain) for gain in gains]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("base", ["energy", "msp", "max_logit"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [None, 7.0])
def test_where_nothing_is_changed_the_base_is_left(name: str, base: str, scale: float | None, sample: Sample) -> None:
    last = sample.last._replace(scale=scale, bias=None if scale else sample.last.bias)
    logits = relogits(sample.features, *flat_layer(last))
    options = {} if base == "max_logit" else {"temperature": 2.5}
    score = create_score(name, base=base, **options, **NEUTRAL[name])
    score.fit(sample.features, logits, sample.labels, last)
    expected = create_score(base, **options)(sample.features, logits)
    torch.testing.assert_close(score(sample.features, logits), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_fitted_layer_is_a_copy(name: str, sample: Sample) -> None:
    """The classifier may be trained on, or thrown away."""
    last = LastLayer(sample.last.weight.clone(), sample.last.bias.clone())
    score = create_score(name).fit(sample.features, sample.logits, sample.labels, last)
    before = score(sample.queries, sample.query_logits)
    last.weight.zero_()
    last.bias.zero_()
    assert torch.equal(score(sample.queries, sample.query_logits), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_without_a_last_layer_is_refused(name: str, sample: Sample) -> None:
    with pytest.raises(ModelError, match=f"score '{name}' needs the weights of a last linear .*; use 'knn'"):
        create_score(name).fit(sample.features, sample.logits, sample.labels, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_temperature_without_effect_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"score '{name}': temperature=2\.0 is not read with base='max_logit'"):
        create_score(name, base="max_logit", temperature=2)
    with pytest.raises(ConfigError, match="option base: Input should be 'energy', 'msp' or 'max_logit', got 'knn'"):
        create_score(name, base="knn")
