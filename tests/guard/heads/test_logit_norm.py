"""The heads trained on normalised logits, against their definitions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

import guard
from guard.graph.outputs import Classifier
from guard.heads import Head, create_head
from guard.requests import TrainRequest
from guard.scores.table import score_table
from tests.conftest import Arrays
from tests.references import heads as reference
from train.backbones import create_backbone
from train.runs.resolve import asked_method, asked_score

LABELS = torch.arange(40) % 5


def made(name: str, **options: Any) -> tuple[Head, torch.Tensor]:
    """A head of 5 classes and 12 features, and features (40, 12)."""
    torch.manual_seed(0)
    return create_head(name, 12, 5, **options), torch.randn(40, 12) + 2 * torch.eye(12)[LABELS]


def loss_of(head: Head, features: torch.Tensor) -> torch.Tensor:
    (term,) = head.loss(features, head(features), LABELS).values()
    return term


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_logitnorm_against_its_definition(temperature: float) -> None:
    head, features = made("logitnorm", temperature=temperature)
    expected = reference.logitnorm(head(features).detach().numpy(), LABELS.numpy(), temperature)
    assert loss_of(head, features).item() == pytest.approx(expected, rel=1e-5)


def test_elogitnorm_against_its_definition() -> None:
    head, features = made("elogitnorm")
    weight = head.last_layer().weight.numpy()
    expected = reference.elogitnorm(head(features).detach().numpy(), weight, LABELS.numpy())
    assert loss_of(head, features).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_t2fnorm_against_its_definition(temperature: float) -> None:
    head, features = made("t2fnorm", temperature=temperature)
    weight, bias = (part.detach().numpy() for part in (head.linear.weight, head.linear.bias))  # type: ignore[union-attr]
    expected = reference.t2fnorm(features.numpy(), weight, bias, LABELS.numpy(), temperature)
    assert loss_of(head, features).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["logitnorm", "elogitnorm", "t2fnorm"])
def test_longer_features_cost_nothing_and_gain_nothing(name: str) -> None:
    """The gradient along the length of the logits (of the features, for t2fnorm) is 0."""
    head, features = made(name)
    with torch.no_grad():
        head.linear.bias.zero_()  # type: ignore[union-attr, operator]
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(head, features), features)
    along = (gradient * features).sum(-1).abs()
    assert (along < 1e-4 * gradient.norm(dim=-1) * features.norm(dim=-1) + 1e-7).all()


def test_two_classes_learn_with_a_constant_distance() -> None:
    torch.manual_seed(0)
    head, features = create_head("elogitnorm", 12, 2), torch.randn(40, 12)
    (gradient,) = torch.autograd.grad(head.loss(features, head(features), LABELS % 2)["elogitnorm"], head.linear.bias)
    assert gradient.abs().max() > 1e-3


def test_scores_that_read_the_length_are_cautioned() -> None:
    backbone = create_backbone("wrn10_2")
    classifier = Classifier(backbone, create_head("logitnorm", backbone.num_features, 4))
    rows = {row.name: row for row in score_table(["energy", "vim", "msp", "mahalanobis"], classifier).rows}
    assert "head='logitnorm' leaves meaningless; use msp" in rows["energy"].caution
    assert rows["vim"].caution
    assert not rows["msp"].caution
    assert not rows["mahalanobis"].caution


def test_training_warns_of_a_score_that_reads_the_length(four: Arrays, tiny: dict[str, Any], caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        guard.train(four, head="logitnorm", **{**tiny, "epochs": 1, "score": "energy"})
    assert "score 'energy': it reads the length of the logits, which head='logitnorm' leaves meaningless" in caplog.text


@pytest.mark.parametrize(("method", "score"), [("plain", "msp"), ("phase_mix", "msp"), ("rejection", "rejection")])
def test_the_heads_score_gives_way_to_one_that_the_method_learns(method: str, score: str) -> None:
    request = TrainRequest(data=None, method=method, head="logitnorm")
    assert asked_score(request, asked_method(request)).name == score
