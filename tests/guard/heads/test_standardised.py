"""The head on standardised features, against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.graph.outputs import Classifier
from guard.heads import create_head
from guard.scores import create_score
from tests.conftest import Arrays
from tests.references import heads as reference
from train.backbones import create_backbone


def features(rows: int = 20) -> torch.Tensor:
    return torch.rand(rows, 12, generator=torch.Generator().manual_seed(0)).pow(3) * 5


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_logits_are_those_of_standardised_features(sigma: float) -> None:
    torch.manual_seed(0)
    head = create_head("standardised", 12, 5, sigma=sigma)
    weight, bias = (part.detach().numpy() for part in (head.linear.weight, head.linear.bias))  # type: ignore[union-attr]
    expected = reference.standardised(features().numpy(), sigma) @ weight.T + bias
    np.testing.assert_allclose(head(features()).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_size_and_mean_of_the_features_change_nothing() -> None:
    head = create_head("standardised", 12, 5)
    scale = torch.linspace(0.1, 30, 20)[:, None]
    torch.testing.assert_close(head(scale * features() - 3 * scale), head(features()), rtol=1e-4, atol=1e-4)


def test_a_constant_image_has_finite_logits_and_gradients() -> None:
    head = create_head("standardised", 12, 5)
    flat = torch.zeros(2, 12, requires_grad=True)
    logits = head(flat)
    torch.testing.assert_close(logits, head.last_layer().bias.expand(2, -1))
    logits.square().sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_half_precision_features_are_standardised_in_full() -> None:
    """bfloat16 sums of 2048 coordinates would be off by a percent."""
    torch.manual_seed(0)
    head = create_head("standardised", 2048, 5)
    wide = (100 + torch.rand(8, 2048)).bfloat16()
    torch.testing.assert_close(head(wide), head(wide.float()))


def test_scores_see_the_features_before_and_scale_puts_them_into_the_layer() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("wrn10_2")
    classifier = Classifier(backbone, create_head("standardised", backbone.num_features, 4)).eval()
    images = torch.randn(6, 3, 16, 16)
    with torch.no_grad():
        outputs = classifier(images)
        torch.testing.assert_close(outputs.features, backbone(images))
        last = classifier.last_layer()
        score = create_score("scale").fit(outputs.features, outputs.logits, torch.arange(6) % 4, last)
        longer = score(3 * outputs.features, outputs.logits)
        assert (score(*outputs) - longer).abs().min() > 1e-3  # though the logits are the same
        h = outputs.features.double().numpy()
        weight, bias = (x.double().numpy() for x in (last.weight, last.bias))
        kept = round(0.15 * h.shape[1])
        gain = np.array([np.exp(row.sum() / np.sort(row)[-kept:].sum()) for row in h])
        expected = [-np.log(np.exp(weight @ (g * row) + bias).sum()) for g, row in zip(gain, h, strict=True)]
        np.testing.assert_allclose(score(*outputs).numpy(), expected, rtol=1e-4)


def test_it_exports_with_a_score_of_the_features(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    g = guard.train(four, head="standardised", score="knn", **{**tiny, "backbone": "wrn10_2", "epochs": 1})
    path = guard.export(g, tmp_path / "guard.onnx")
    np.testing.assert_allclose(guard.load(path).predict(four[0]).ood_score, g.predict(four[0]).ood_score, rtol=1e-3)
