"""The extra class: in the loss and for regularisers, never in label or probabilities; and the score that reads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from guard.errors import ConfigError, ModelError
from guard.heads import create_head
from guard.scores import create_score
from guard.scores.reject_class import reject_class
from tests.references.scores import softmax


def test_the_extra_class_is_in_the_loss_and_not_in_the_logits() -> None:
    torch.manual_seed(0)
    head, features, labels = create_head("c_plus_1", 6, 3), torch.randn(8, 6), torch.arange(8) % 3
    everything = head.all_logits(features)
    assert everything.shape == (8, 4)
    torch.testing.assert_close(head(features), everything[:, :3])
    torch.testing.assert_close(head.loss(features, head(features), labels)["ce"], F.cross_entropy(everything, labels))
    last = head.last_layer()
    assert (last.weight.shape, last.bias.shape) == ((3, 6), (3,))  # type: ignore[union-attr]
    weight, bias = last.reject  # type: ignore[misc]
    torch.testing.assert_close(features @ weight + bias, everything[:, 3].detach())


def test_the_score_is_the_log_probability_of_the_extra_class() -> None:
    torch.manual_seed(0)
    head, features = create_head("c_plus_1", 6, 3), 3 * torch.randn(50, 6)
    with torch.no_grad():
        logits, everything = head(features), head.all_logits(features).double().numpy()
    score = create_score("reject_class").fit(features, logits, torch.arange(50) % 3, head.last_layer())
    expected = [np.log(softmax(row)[-1]) for row in everything]
    np.testing.assert_allclose(score(features, logits), expected, rtol=1e-5, atol=1e-6)


def test_the_score_keeps_its_digits_where_the_extra_class_is_certain() -> None:
    extra = torch.tensor([5.0, 20.0, 40.0, 80.0, 1000.0, -1000.0])
    values = reject_class(torch.zeros(6, 2), extra)
    assert (values[:4].diff() > 0).all()
    assert values[-2] == 0
    assert values[-1] == pytest.approx(-1000 - np.log(2))


def test_other_heads_have_no_extra_class() -> None:
    head, features = create_head("linear", 6, 3), torch.randn(8, 6)
    with pytest.raises(ModelError, match=r"needs a classifier with an extra class .*head='c_plus_1'"):
        create_score("reject_class").fit(features, head(features), torch.arange(8) % 3, head.last_layer())
    with pytest.raises(ConfigError, match="score 'reject_class' was not fitted"):
        create_score("reject_class")(features, head(features))
