"""Batches on the device: from one resident array, or streamed; the same images in the same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.data import ImageData, load
from train.engine import loader
from train.engine.distributed import Processes
from train.engine.loader import Feed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def numbered() -> ImageData:
    """Thirty images, each filled with its own number, labelled by its last digit."""
    images = np.tile(np.arange(30, dtype=np.uint8)[:, None, None, None], (1, 5, 4, 3))
    return load((images, np.arange(30) % 10))


class Streamed:
    """The same images without an array of them all."""

    def __init__(self, data: ImageData) -> None:
        self.data, self.array, self.labels = data, None, data.labels
        self.batches = data.batches

    def __len__(self) -> int:
        return len(self.data)


@pytest.mark.parametrize("streamed", [False, True])
def test_batches_come_in_the_order_asked_for(numbered: ImageData, streamed: bool) -> None:
    feed = Feed(Streamed(numbered) if streamed else numbered)  # type: ignore[arg-type]
    assert len(feed) == 30
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:23]
    batches = list(feed.batches(order, 8, CPU))
    assert [len(b.images) for b in batches] == [8, 8, 7]
    assert torch.cat([b.images[:, 0, 0, 0] for b in batches]).tolist() == order.tolist()
    assert torch.cat([b.labels for b in batches]).tolist() == (order % 10).tolist()
    assert batches[0].images.shape == (8, 5, 4, 3)
    assert batches[0].images.dtype == torch.uint8


def test_what_a_step_does_to_its_batch_stays_there(numbered: ImageData) -> None:
    feed = Feed(numbered)
    next(iter(feed.batches(torch.arange(30), 30, CPU))).images.zero_()
    again = next(iter(feed.batches(torch.arange(30), 30, CPU))).images
    assert again[:, 0, 0, 0].tolist() == list(range(30))
    assert numbered.array is not None
    assert numbered.array[7, 0, 0, 0] == 7


def test_unlabelled_images_have_labels_of_zero(numbered: ImageData) -> None:
    assert numbered.array is not None
    feed = Feed(load(np.array(numbered.array), labelled=False))
    assert next(iter(feed.batches(torch.arange(5), 5, CPU))).labels.tolist() == [0] * 5


def test_images_are_resident_in_all_processes_or_in_none(numbered: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who read together wait for all: another process whose GPU is fuller decides for this one too, and once."""
    asked: list[bool] = []

    class Two(Processes):
        def all_say(self, value: bool) -> bool:
            asked.append(value)
            return False

    monkeypatch.setattr(loader, "processes", lambda: Two(rank=0, world=2))
    feed = Feed(numbered)
    assert feed._on_device(CPU) is None
    assert feed._on_device(CPU) is None
    assert asked == [True]
