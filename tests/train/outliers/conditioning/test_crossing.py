"""BOOD's features beyond the decision boundary, against one feature at a time by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references import naive_embeddings
from train.outliers.conditioning.crossing import CrossingOptions, crossing_embeddings, nearest_share, steps_to_cross
from train.outliers.conditioning.encoder import Features

STEP, T = 0.02, 0.1


def some(anchors: Tensor) -> Features:
    """80 features of each class around its anchor, some of them beyond the boundary."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    noise = torch.randn(320, anchors.shape[1], generator=g) * torch.rand(320, 1, generator=g)
    return Features(3 * (F.normalize(anchors)[labels] + 0.6 * noise), labels)


def test_steps_and_features_are_those_of_a_loop(anchors: Tensor) -> None:
    features = some(anchors)
    z = F.normalize(features.data).double()
    directions = F.normalize(anchors).double()
    steps, at = steps_to_cross(z, features.labels, directions, STEP, T, 8)
    for i in range(0, 320, 7):
        expected, where = naive_embeddings.crossing(z[i], int(features.labels[i]), directions, STEP, T, 8, 0)
        assert int(steps[i]) == expected
        torch.testing.assert_close(at[i], where)
    assert {-1, 0, 3} <= set(steps.tolist())
    crossed = steps >= 0
    nearest = (at @ directions.T).argmax(1)
    assert (nearest[crossed] != features.labels[crossed]).all()
    assert (nearest[~crossed] == features.labels[~crossed]).all()


def test_embeddings_are_the_nearest_share_some_steps_beyond(anchors: Tensor) -> None:
    features = some(anchors)
    options = CrossingOptions(step=STEP, scale_to_width=False, share=0.1, further_steps=2)
    made, values = crossing_embeddings(features, anchors, options, T)
    assert made.classes.tolist() == [c for c in range(4) for _ in range(8)]
    assert made.parents.equal(made.classes[:, None])
    torch.testing.assert_close(made.data.norm(dim=1), anchors.norm(dim=1)[made.classes])
    for c in range(4):
        own = F.normalize(features.data[features.labels == c]).double()
        results = [naive_embeddings.crossing(z, c, anchors.double(), STEP, T, 100, 2) for z in own]
        ordered = sorted((r for r in results if r[0] > 0), key=lambda r: r[0])[:8]
        expected = torch.stack([r[1] for r in ordered]) * anchors[c].norm()
        torch.testing.assert_close(made.data[made.classes == c], expected.float(), rtol=1e-3, atol=1e-4)
    assert values["not_crossed"] == values["of_other_classes"] == 0
    cosines = F.normalize(made.data) @ F.normalize(anchors).T
    assert (cosines.argmax(1) != made.classes).all()


def test_further_steps_go_further(anchors: Tensor) -> None:
    features, cosines = some(anchors), []
    for further in (0, 2, 5):
        options = CrossingOptions(step=STEP, scale_to_width=False, further_steps=further)
        made, _ = crossing_embeddings(features, anchors, options, T)
        cosines.append(float(F.cosine_similarity(made.data, anchors[made.classes]).mean()))
    assert cosines[0] > cosines[1] > cosines[2]


def test_those_of_another_class_come_after_those_that_cross_and_before_those_that_do_not() -> None:
    steps = torch.tensor([5, 0, -1, 2, 0, 2, 9])
    assert nearest_share(steps, 1.0).tolist() == [3, 5, 0, 6, 1, 4, 2]
    assert nearest_share(steps, 0.3).tolist() == [3, 5]
    assert nearest_share(steps, 0.01).tolist() == [3]  # at least one
    assert nearest_share(torch.tensor([-1, 0, -1]), 0.5).tolist() == [1, 0]


def test_a_step_is_as_long_in_any_width() -> None:
    assert CrossingOptions().step_in(768) == 0.015
    assert CrossingOptions().step_in(48) * 48**0.5 == pytest.approx(0.015 * 768**0.5)
    assert CrossingOptions(scale_to_width=False).step_in(48) == 0.015


def test_two_classes(anchors: Tensor) -> None:
    features = some(anchors)
    two = features.labels < 2
    made, _ = crossing_embeddings(Features(features.data[two], features.labels[two]), anchors[:2], CrossingOptions(), T)
    assert set(made.classes.tolist()) == {0, 1}
    assert ((F.normalize(made.data) @ F.normalize(anchors[:2]).T).argmax(1) != made.classes).all()
