"""pytorch-ood's detectors beside our scores: where one is said to be the same, it ranks alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.evaluation import metrics
from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.scores import create_score
from train.benchmark.counterparts import BUILDERS, counterpart

WIDTH, CLASSES = 24, 5
OPTIONS = {"nnguide": {"alpha": 1.0}, "vim": {"dim": 8}}


def shown(count: int, shift: float, seed: int) -> tuple[Outputs, torch.Tensor]:
    """Features that depend on the class, as behind a ReLU, and the logits of a linear layer."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
    features = (centres[labels] + shift + 0.6 * torch.randn(count, WIDTH, generator=g)).relu()
    layer = last()
    assert layer.bias is not None
    return Outputs(features, features @ layer.weight.T + layer.bias, None), labels


def last() -> LastLayer:
    g = torch.Generator().manual_seed(3)
    return LastLayer(torch.randn(CLASSES, WIDTH, generator=g), torch.randn(CLASSES, generator=g))


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_it_ranks_images_as_ours_does(name: str) -> None:
    fitting, labels = shown(600, 0, 0)
    inside, outside = shown(200, 0, 1)[0], shown(150, 0.4, 2)[0]
    score = create_score(name, **OPTIONS.get(name, {}))
    other = counterpart(score, fitting, labels, last())
    assert other is not None
    score.fit(fitting.features, fitting.logits, labels, last())
    with torch.no_grad():
        ours = [score(x.features, x.logits).double().numpy() for x in (inside, outside)]
    theirs = [other(inside), other(outside)]
    assert metrics.auroc(*ours) == pytest.approx(metrics.auroc(*theirs), abs=2e-3)
    ranks = [np.concatenate(scores).argsort().argsort() for scores in (ours, theirs)]
    assert np.corrcoef(*ranks)[0, 1] > 0.999


def test_what_the_other_library_does_not_do_has_no_counterpart() -> None:
    fitting, labels = shown(60, 0, 0)
    cosine = LastLayer(last().weight, None, scale=10.0)
    for name, options in (("energy+vim", {}), ("fdbd", {}), ("mahalanobis", {"normalise": 1}), ("nnguide", {})):
        assert counterpart(create_score(name, **options), fitting, labels, last()) is None, name
    for name in ("vim", "react", "dice"):
        assert counterpart(create_score(name), fitting, labels, cosine) is None, name
    assert counterpart(create_score("knn", k=5), fitting, labels, cosine) is not None
