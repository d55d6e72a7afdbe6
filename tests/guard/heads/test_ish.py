"""ISH: the gradient of the last layer's weight by its definition, every other gradient that of the plain layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import guard
from guard.graph.outputs import Backbone, Classifier
from guard.heads import Head, create_head
from guard.heads.ish import shaped
from tests.conftest import Arrays
from tests.references import heads as reference
from train.engine.optimizer import stage_optimizer
from train.methods.base import Stage

LABELS = torch.arange(30) % 5


def made(**options: Any) -> tuple[Head, Tensor]:
    """A head of 5 classes and 20 features in train mode, and features (30, 20) as after a ReLU."""
    torch.manual_seed(0)
    return create_head("ish", 20, 5, **options).train(), torch.randn(30, 20).relu().requires_grad_()


def gradients(head: Head, features: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    loss = F.cross_entropy(logits, LABELS)
    return torch.autograd.grad(loss, (logits, features, head.linear.weight, head.linear.bias))  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("share", [0.15, 0.5, 0.01])
@pytest.mark.parametrize("signed", [False, True])
def test_the_weight_learns_from_the_largest_activations_enlarged(share: float, signed: bool) -> None:
    head, features = made(share=share)
    if signed:
        features = torch.randn(30, 20, requires_grad=True)
    of_logits, of_features, of_weight, of_bias = gradients(head, features, head(features))
    expected = reference.ish_weight_gradient(features.detach().numpy(), of_logits.numpy(), share)
    np.testing.assert_allclose(of_weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_features, of_logits @ head.linear.weight)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(of_bias, of_logits.sum(0))


def test_all_activations_without_a_gain_are_the_plain_gradient() -> None:
    """share=1 keeps all, with S1 / S2 = 1 for features without negative ones: e times the linear layer's."""
    head, features = made(share=1.0)
    plain = F.linear(features, head.linear.weight, head.linear.bias)  # type: ignore[union-attr, arg-type]
    of_plain = gradients(head, features, plain)
    of_ish = gradients(head, features, head(features))
    torch.testing.assert_close(of_ish[2], np.e * of_plain[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_the_linear_layers_to_the_bit(dtype: torch.dtype) -> None:
    head, features = made()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        training = head(features)
        plain = F.linear(features, head.linear.weight, head.linear.bias)  # type: ignore[union-attr, arg-type]
        assert training.dtype == dtype
        assert training.equal(plain)
        assert head.eval()(features).equal(plain)


def test_its_gradients_are_right_in_mixed_precision() -> None:
    head, features = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
    of_logits, _, of_weight, _ = gradients(head, features, logits.float())
    expected = reference.ish_weight_gradient(features.detach().numpy(), of_logits.numpy(), 0.15)
    assert of_weight.dtype == torch.float32
    np.testing.assert_allclose(of_weight.numpy(), expected, rtol=0.05, atol=0.02 * np.abs(expected).max())


def test_features_of_nothing_teach_nothing() -> None:
    head, _ = made()
    found = shaped(torch.zeros(3, 20), 0.15)
    assert found.eq(0).all()
    features = torch.zeros(30, 20, requires_grad=True)
    assert gradients(head, features, head(features))[2].eq(0).all()


def test_in_use_the_gradient_is_the_plain_one() -> None:
    """A frozen head, or one in eval mode, is the linear layer, and so is what an attack on it differentiates."""
    head, features = made()
    logits = head.eval()(features)
    of_logits, _, of_weight, _ = gradients(head, features, logits)
    torch.testing.assert_close(of_weight, of_logits.T @ features)


class Pooled(Backbone):
    """One layer that is a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 20)


@pytest.mark.parametrize("name", ["linear", "ish"])
def test_the_last_layer_has_a_weight_decay_of_its_own(name: str) -> None:
    classifier = Classifier(Pooled(), create_head(name, 20, 5))
    optimizer = stage_optimizer(Stage("classifier", 1, 0.1, weight_decay=0.01), classifier, ())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(classifier.parameters()))
    assert len(optimizer.param_groups) == (2 if name == "linear" else 3)
    weight, bias = classifier.head.linear.weight, classifier.head.linear.bias  # type: ignore[union-attr]
    assert decay[id(weight)] == (5e-5 if name == "ish" else 0.01)
    assert decay[id(bias)] == 0
    assert decay[id(classifier.backbone.layer.weight)] == 0.01  # type: ignore[union-attr, arg-type]


def test_training_the_head_uses_both(four: Arrays, tiny: dict[str, Any]) -> None:
    """The same seed with the plain layer ends elsewhere; with another weight decay, elsewhere again."""
    options = {**tiny, "epochs": 1, "backbone": "wrn10_2", "score": "energy"}
    ends = []
    for head, given in (("linear", {}), ("ish", {}), ("ish", {"weight_decay": 0.1}), ("ish", {})):
        g = guard.train(four, head=head, head_options=given, **options)
        ends.append(copy.deepcopy(g.runtime.module.classifier.head.linear.weight))
    assert ends[1].equal(ends[3])
    for i, j in ((0, 1), (1, 2)):
        assert (ends[i] - ends[j]).abs().max() > 1e-4
