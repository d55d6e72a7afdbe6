"""Embeddings made from the anchors alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train.outliers.conditioning.anchors import interpolated, moved, with_noise


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_interpolations_lie_between_two_different_classes(anchors: Tensor) -> None:
    made = interpolated(anchors, (0.25, 0.5), 400, generator())
    a, b = made.parents.T
    assert (a != b).all()
    assert made.classes.equal(a)
    assert {tuple(pair) for pair in made.parents.tolist()} == {(i, j) for i in range(4) for j in range(4) if i != j}
    alpha = ((made.data - anchors[b]) * (anchors[a] - anchors[b])).sum(1) / (anchors[a] - anchors[b]).square().sum(1)
    torch.testing.assert_close(made.data, alpha[:, None] * anchors[a] + (1 - alpha[:, None]) * anchors[b])
    assert set(alpha.mul(100).round().long().tolist()) == {25, 50}


@pytest.mark.parametrize("classes", [2, 4])
def test_every_class_has_an_embedding_however_few_are_asked_for(anchors: Tensor, classes: int) -> None:
    own = anchors[:classes]
    for made in (interpolated(own, (0.5,), 1, generator()), with_noise(own, 0.03, 1, generator())):
        assert sorted(made.classes.tolist()) == list(range(classes))


def test_noise_has_the_published_ratio_to_the_anchor_in_any_space(anchors: Tensor) -> None:
    """0.03 in 768 coordinates beside a norm of 0.39: 2.13 times as long as the anchor."""
    made = with_noise(anchors, 0.03, 4000, generator())
    noise = made.data - anchors[made.classes]
    assert made.parents.equal(made.classes[:, None])
    ratio = noise.square().sum(1).mean().sqrt() / anchors.norm(dim=1).square().mean().sqrt()
    assert float(ratio) == pytest.approx(0.03 * 768**0.5 / 0.39, rel=0.02)
    assert abs(float(noise.mean())) < 0.02
    plain = with_noise(anchors, 0.03, 4000, generator(), scale_to_width=False)
    assert float((plain.data - anchors[plain.classes]).std()) == pytest.approx(0.03, rel=0.02)


def test_learned_offsets_move_the_anchors(anchors: Tensor) -> None:
    made = moved(anchors, torch.ones_like(anchors))
    assert made.data.equal(anchors + 1)
    assert made.classes.tolist() == [0, 1, 2, 3]


def test_more_embeddings_leave_the_first_ones_as_they_are() -> None:
    anchors = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for make in (
        lambda n: interpolated(anchors, (0.3, 0.7), n, torch.Generator().manual_seed(1)),
        lambda n: with_noise(anchors, 0.1, n, torch.Generator().manual_seed(1)),
    ):
        few, many = make(700), make(2300)
        assert (len(few.data), len(many.data)) == (700, 2300)
        assert many.data[:700].equal(few.data)
