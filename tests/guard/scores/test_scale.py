"""SCALE against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import SCALE as Theirs

from guard.heads import LastLayer
from guard.scores import create_score
from guard.scores.relogits import flat_layer, relogits
from tests.guard.scores.conftest import Sample
from tests.guard.scores.test_ash import positive
from tests.references import relogits as reference
from tests.references import scores


def test_against_its_definition(sample: Sample) -> None:
    features = positive(40, 10)
    score = create_score("scale", percentile=60).fit(features, features[:, :3], sample.labels, sample.last)
    layer = (sample.last.weight.numpy(), sample.last.bias.numpy(), None)
    logits = [reference.logits_of(reference.scaled(h.numpy(), 4), layer) for h in features]
    np.testing.assert_allclose(score(features, features[:, :3]).numpy(), scores.energy(np.array(logits)), rtol=1e-5)


@pytest.mark.parametrize("percentile", [0, 65, 85])
def test_against_pytorch_ood(percentile: int, sample: Sample) -> None:
    features = positive(40, 64) + 0.01 * torch.rand(40, 64, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(4)
    last = LastLayer(torch.randn(3, 64, generator=g), torch.randn(3, generator=g))
    score = create_score("scale", percentile=percentile).fit(features, features[:, :3], sample.labels[:40], last)
    theirs = Theirs(
        None,  # type: ignore[arg-type]
        lambda maps: relogits(maps.flatten(1), *flat_layer(last)),
        percentile=percentile / 100,
    )
    expected = theirs.predict_feature_maps(features[:, :, None, None])
    torch.testing.assert_close(score(features, features[:, :3]), expected, rtol=1e-5, atol=1e-4)


def test_a_cosine_layer_sees_no_length(sample: Sample) -> None:
    last = LastLayer(sample.last.weight, None, scale=16.0)
    features = positive(40, 10) + 0.01
    logits = relogits(features, *flat_layer(last))
    score = create_score("scale").fit(features, logits, sample.labels[:40], last)
    torch.testing.assert_close(score(features, logits), -logits.logsumexp(-1))


@pytest.mark.parametrize("row", [[0.0] * 10, [1e20, -1e20, *[0.0] * 8], [-1.0] * 10, [1e-30] * 10])
def test_it_is_finite_whatever_the_features(sample: Sample, row: list[float]) -> None:
    features = torch.tensor([row])
    score = create_score("scale").fit(sample.features, sample.logits, sample.labels, sample.last)
    assert score(features, sample.logits[:1]).isfinite().all()
