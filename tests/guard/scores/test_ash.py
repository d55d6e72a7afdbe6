"""ASH against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import ASH as Theirs

from guard.errors import ConfigError
from guard.heads import LastLayer
from guard.scores import create_score
from guard.scores.ash import ash, largest, num_kept
from guard.scores.relogits import flat_layer, relogits
from tests.guard.scores.conftest import Sample
from tests.references import relogits as reference
from tests.references import scores

VARIANTS = ["b", "p", "s"]


def shape(features: torch.Tensor, k: int, variant: str) -> torch.Tensor:
    shaped, gain = ash(features, k, variant)
    return shaped if gain is None else gain * shaped


def positive(n: int, width: int) -> torch.Tensor:
    """Features after a ReLU and pooling: none negative, some zero."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(3)).relu()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [1, 3, 7, 10])
def test_shaping_against_its_definition(k: int, variant: str, sample: Sample) -> None:
    for features in (positive(40, 10), sample.features[:40]):  # the latter have negative values
        expected = np.stack([reference.ash(h.numpy(), k, variant) for h in features])
        np.testing.assert_allclose(shape(features, k, variant).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 16.0], ids=["linear", "cosine"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_against_their_definition(variant: str, scale: float | None, sample: Sample) -> None:
    last = sample.last._replace(scale=scale)
    features = positive(40, 10)
    score = create_score("ash", variant=variant, percentile=60).fit(features, features[:, :3], sample.labels, last)
    layer = (last.weight.numpy(), last.bias.numpy(), scale)
    logits = [reference.logits_of(reference.ash(h.numpy(), 4, variant), layer) for h in features]
    found = score(features, features[:, :3]).numpy()
    np.testing.assert_allclose(found, scores.energy(np.array(logits)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("percentile", [0, 65, 90])
def test_against_pytorch_ood(percentile: int, variant: str, sample: Sample) -> None:
    """The same where at least k activations are not 0 and none are equal; theirs takes maps and a fraction."""
    features = positive(40, 64) + 0.01 * torch.rand(40, 64, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(4)
    last = LastLayer(torch.randn(3, 64, generator=g), torch.randn(3, generator=g))
    score = create_score("ash", variant=variant, percentile=percentile)
    score.fit(features, features[:, :3], sample.labels[:40], last)
    theirs = Theirs(
        None,  # type: ignore[arg-type]
        lambda maps: relogits(maps.flatten(1), *flat_layer(last)),
        variant=f"ash-{variant}",
        percentile=percentile / 100,
    )
    expected = theirs.predict_feature_maps(features[:, :, None, None])
    torch.testing.assert_close(score(features, features[:, :3]), expected, rtol=1e-5, atol=1e-4)


def test_the_short_and_the_long_side_keep_the_same() -> None:
    """TopK from above for k <= D / 2, from below beyond: both against a full sort."""
    features = torch.randn(20, 31, generator=torch.Generator().manual_seed(0))
    for k in range(1, 32):
        border = features.sort(dim=-1, descending=True).values[:, k - 1 : k]
        assert torch.equal(largest(features, k), features >= border)
        assert (largest(features, k).sum(-1) == k).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_activations_share_their_fate(variant: str) -> None:
    """theirs keeps k of them, whichever its TopK finds first; a runtime's TopK may find others."""
    shaped = shape(torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]]), 2, variant)
    assert (shaped[0] != 0).tolist() == [True, True, True, True, False]
    if variant == "b":
        torch.testing.assert_close(shaped[0, :4], torch.full((4,), 10 / 4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_less_than_k_activations_no_zero_is_woken(variant: str) -> None:
    """theirs fills zeros of its TopK's choice."""
    shaped = shape(torch.tensor([[0.0, 4.0, 0.0, 2.0, 0.0]]), 4, variant)
    expected = {"b": [0, 3, 0, 3, 0], "p": [0, 4, 0, 2, 0], "s": [0, 4 * np.e, 0, 2 * np.e, 0]}[variant]
    np.testing.assert_allclose(shaped[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "row",
    [
        [0.0, 0, 0, 0],
        [1.0, -1, 0, 0],
        [1e-30, -5, -5, -5],
        [-1e-30, -5, -5, -5],
        [-1.0, -2, -3, -4],
        [1e3, 1e3, 1e3, 0],
    ],
    ids=str,
)
def test_no_sharpening_overflows(row: list[float], variant: str) -> None:
    """exp(s1 / s2) with s2 near zero, or negative features: finite, and so is the energy of it."""
    for k in (1, 2, 4):
        shaped = shape(torch.tensor([row]), k, variant)
        assert shaped.isfinite().all()
        logits = relogits(shaped, *flat_layer(LastLayer(torch.tensor([[1.0, -1, 2, 0.5], [3, 2, 1, 0]]), None)))
        assert logits.logsumexp(-1).isfinite().all()


def test_a_cosine_layer_does_not_see_the_sharpening(sample: Sample) -> None:
    features, last = positive(40, 10), sample.last._replace(bias=None, scale=16.0)
    found = [
        create_score("ash", variant=v).fit(features, features[:, :3], sample.labels, last)(features, features[:, :3])
        for v in ("p", "s")
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_at_least_one_activation_is_kept() -> None:
    assert [num_kept(d, p) for d, p in ((512, 90), (128, 65), (3, 90), (1, 99), (10, 0))] == [51, 45, 1, 1, 10]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"percentile": 100}, "option percentile: Input should be less than 100, got 100"),
        ({"percentile": -1}, "option percentile: Input should be greater than or equal to 0, got -1"),
        ({"variant": "ash-b"}, "option variant: Input should be 'b', 'p' or 's', got 'ash-b'"),
    ],
)
def test_what_it_refuses(options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"score 'ash' {sentence}"):
        create_score("ash", **options)
