"""Heads against their definitions; what scores see of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from guard.errors import UnknownNameError
from guard.heads import CosineHead, LinearHead, create_head, list_heads
from guard.heads.cosine import INITIAL_SCALE


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def test_linear(features: torch.Tensor) -> None:
    torch.manual_seed(0)
    head = LinearHead(5, 3)
    last = head.last_layer()
    expected = [[float(h @ w) + float(b) for w, b in zip(last.weight, last.bias, strict=True)] for h in features]
    np.testing.assert_allclose(head(features).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert last.scale is None


def test_cosine(features: torch.Tensor) -> None:
    torch.manual_seed(0)
    head = CosineHead(5, 3)
    expected = [
        [INITIAL_SCALE * float(h @ w) / math.sqrt(float(h @ h) * float(w @ w)) for w in head.weight.detach()]
        for h in features
    ]
    np.testing.assert_allclose(head(head.embed(features)).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    assert head.last_layer().scale == pytest.approx(INITIAL_SCALE)
    assert head.last_layer().bias is None


def test_cosine_sees_directions_only(features: torch.Tensor) -> None:
    head = CosineHead(5, 3)
    torch.testing.assert_close(head.embed(features * 100), head.embed(features))
    assert head(head.embed(torch.zeros(1, 5))).equal(torch.zeros(1, 3))


def test_the_cosine_scale_learns_and_stays_positive(features: torch.Tensor) -> None:
    head = CosineHead(5, 3)
    torch.nn.functional.cross_entropy(head(features), torch.arange(9) % 3).backward()
    assert head.log_scale.grad.abs() > 0
    with torch.no_grad():
        head.log_scale.fill_(-10)
    assert head.last_layer().scale > 0


@pytest.mark.parametrize("name", list_heads())
def test_every_head_has_the_right_shapes_and_a_detached_last_layer(name: str, features: torch.Tensor) -> None:
    head = create_head(name, 5, 3)
    assert head(head.embed(features)).shape == (9, 3)
    last = head.last_layer()
    assert last.weight.shape == (3, head.num_features)
    assert not last.weight.requires_grad
    width = {"hypersphere": 128, "mlp": 512, "mlp_c_plus_1": 512}.get(name, 5)
    assert (head.num_features, head.num_classes, head.name) == (width, 3, name)


def test_an_unknown_head_is_named_with_near_matches() -> None:
    with pytest.raises(UnknownNameError, match=r"head 'cosin'; did you mean 'cosine'"):
        create_head("cosin", 5, 3)


def test_label_smoothing_is_torchs() -> None:
    head = create_head("linear", 4, 3, label_smoothing=0.2)
    features, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    logits = head(features)
    targets = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    expected = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    assert head.loss(features, logits, labels)["ce"].item() == pytest.approx(expected.item(), rel=1e-6)
