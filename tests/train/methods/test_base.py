"""What methods share: outliers per step, and the plain classifier before the stages of a method."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from guard.scores import create_score
from train.methods.base import MethodContext, Stage

CONTEXT = MethodContext(
    num_classes=4,
    num_features=16,
    map_shape=None,
    class_counts=(30,) * 4,
    epochs=7,
    lr=0.3,
    batch_size=20,
    seed=0,
    device=torch.device("cpu"),
    outliers=None,
    initialised=False,
    score=create_score("energy"),
)


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 20), (0.5, 10), (2.0, 40), (0.06, 1), (0.001, 1), (0.13, 3)])
def test_a_ratio_is_images_per_in_distribution_image_and_at_least_one(ratio: float, count: int) -> None:
    assert CONTEXT.per_step(ratio) == count


def test_a_plain_classifier_is_trained_first_unless_there_is_one() -> None:
    first, second = Stage("a", 1, 0.1), Stage("b", 2, 0.2)
    plain, *rest = CONTEXT.after_classifier(first, second)
    assert (plain.name, plain.epochs, plain.lr, plain.synthesiser, plain.regularisers) == (
        "classifier",
        7,
        0.3,
        None,
        (),
    )
    assert rest == [first, second]
    assert dataclasses.replace(CONTEXT, initialised=True).after_classifier(first, second) == [first, second]
