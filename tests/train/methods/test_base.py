"""What methods share: outliers per step, a plain classifier first, options that given outliers make idle."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch

from guard.errors import ConfigError
from guard.record import option
from guard.scores import create_score
from train.methods.base import Method, MethodContext, MethodOptions, Stage
from train.outliers.images.pixel_average import PixelAverage

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


class MadeOptions(MethodOptions, PixelAverage.Options):
    """Options of the outliers, and of their use."""

    weight: float = option(0.5, "Of the loss.")
    store_size: int | None = option(None, "Outliers to make.")


class Made(Method):
    """Makes outliers by a synthesiser of its own."""

    name = "made"
    Options = MadeOptions
    makers: ClassVar[tuple[str, ...]] = ("pixel_average",)


@pytest.mark.parametrize("given", [{"k": 3}, {"store_size": 100}])
def test_options_of_its_own_outliers_are_refused_beside_given_ones(given: dict[str, int]) -> None:
    method = Made(MadeOptions(**given))
    method.check_outliers(None)
    (name, value), *_ = given.items()
    with pytest.raises(ConfigError, match=f"method 'made' does not read {name}={value} where outliers= names"):
        method.check_outliers("some/folder")


def test_options_of_their_use_are_read_with_any_outliers() -> None:
    Made(MadeOptions(weight=2.0, k=10)).check_outliers("some/folder")


def test_an_option_that_the_method_reads_anyway_is_not_refused() -> None:
    class Reads(Made):
        read_anyway: ClassVar[frozenset[str]] = frozenset({"k"})

    Reads(MadeOptions(k=3)).check_outliers("some/folder")
