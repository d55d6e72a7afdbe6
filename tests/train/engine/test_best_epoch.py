"""The images that choose the epoch: how many of them are on the device at once, and how often they are read."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.graph.outputs import Classifier
from train.classifiers.fresh import build_classifier
from train.engine import best_epoch
from train.engine.best_epoch import BestEpoch
from train.engine.loader import Feed


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read and what is looked at, as it comes, in batches of 4."""
    seen: list[str] = []
    batches = Feed.batches

    def spy(self: Feed, *arguments: Any) -> Iterator[Any]:
        for batch in batches(self, *arguments):
            seen.append("read")
            yield batch

    monkeypatch.setattr(Feed, "batches", spy)
    monkeypatch.setattr(best_epoch, "BATCH", 4)
    return seen


class Answers:
    """A `Forward` whose network says that every image is of the first class."""

    def __init__(self, trains: str, events: list[str]) -> None:
        self.stage, self.events = SimpleNamespace(trains=trains), events

    def logits(self, network: Any, images: Tensor) -> Tensor:
        self.events.append("look")
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)

    def pooled(self, images: Tensor) -> tuple[Tensor, None]:
        self.events.append("look")
        return images.flatten(1).float(), None

    def head_logits(self, network: Any, pooled: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(pooled), 2)


@pytest.mark.parametrize("trains", ["classifier", "head"])
def test_one_batch_after_the_other_is_on_the_device(trains: str, events: list[str]) -> None:
    data = load((np.zeros((10, 8, 8, 3), np.uint8), np.arange(10) % 5 // 3))  # 6 of 10 are of the first class
    network = build_classifier("wrn10_1", "linear", 2, in_chans=3, image_size=8)
    assert isinstance(network, Classifier)
    best, forward = BestEpoch(network, data, torch.device("cpu")), Answers(trains, events)
    assert best.consider(network, forward) == 0.6  # type: ignore[arg-type]
    assert events == ["read", "look"] * 3
    assert best.consider(network, forward) == 0.6  # type: ignore[arg-type]
    assert len(events) == (6 if trains == "head" else 12)  # through a frozen backbone once
