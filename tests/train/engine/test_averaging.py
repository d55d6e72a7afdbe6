"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import guard
from tests.conftest import Arrays
from tests.train.engine.runs import Tiny, short
from train.classifiers.fresh import build_classifier
from train.engine.averaging import Average


def test_averaged_weights_are_near_the_trained_ones_even_after_a_short_run(four: Arrays, tiny: Tiny) -> None:
    """Twelve steps: 0.999^12 would leave 99 % of the random initialisation in the average."""
    options = {**tiny, "epochs": 2}
    raw, averaged = guard.train(short(four), **options), guard.train(short(four), ema=0.999, **options)
    torch.manual_seed(0)
    start = untrained(raw)
    key = "head.linear.weight"
    moved = (raw.module.classifier.state_dict()[key] - start[key]).norm()
    left = (raw.module.classifier.state_dict()[key] - averaged.module.classifier.state_dict()[key]).norm()
    assert 0 < left < 0.6 * moved


def untrained(g: guard.Guard) -> dict[str, Tensor]:
    """The weights before training."""
    return build_classifier(g.manifest.backbone, g.manifest.head, 4, in_chans=3, image_size=16).state_dict()


def test_the_average_is_the_recursion_it_says_it_is() -> None:
    module = nn.BatchNorm1d(1)
    average = Average(module, decay=0.3)
    expected = 1.0
    for step, value in enumerate([4.0, -2.0, 7.0, 7.0, 0.0]):
        with torch.no_grad():
            module.weight.fill_(value)
        module.num_batches_tracked.fill_(step)
        average.update(module, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.shadow.weight.item() == pytest.approx(expected, rel=1e-6)
    assert average.shadow.num_batches_tracked == 4
    assert module.weight.item() == 0
