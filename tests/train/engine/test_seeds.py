"""Seeds: one seed gives one run, and every epoch has one of its own."""

from __future__ import annotations

import pytest
import torch

import guard
from tests.conftest import RECIPES, Arrays
from tests.train.engine.runs import Tiny, assert_equal, short, weights
from train.engine.seeds import epoch_seed

METHODS = ["plain", "vos", "npos", "oe", "mim", "energy_ft", "acet", "ascood", "rejection"]


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_of_one_seed_are_equal_and_another_differs(name: str, four: Arrays, tiny: Tiny) -> None:
    options = {**tiny, **RECIPES[name], "epochs": 2, "augment": "crop+flip"}
    options |= {"tune_epochs": 1} if name == "rejection" else {}
    a, b = (guard.train(short(four), seed=3, **options) for _ in range(2))
    assert_equal(a, b)
    if name == "plain":
        other = guard.train(short(four), seed=4, **options)
        assert not torch.equal(
            weights(a)["classifier.backbone.stem.weight"], weights(other)["classifier.backbone.stem.weight"]
        )


def test_each_epoch_of_each_stage_has_a_seed_of_its_own() -> None:
    seeds = {
        epoch_seed(s, stage, epoch) + add
        for s in range(3)
        for stage in range(3)
        for epoch in range(300)
        for add in (0, 1)
    }
    assert len(seeds) == 3 * 3 * 300 * 2
