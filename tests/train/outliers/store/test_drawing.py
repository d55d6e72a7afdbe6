"""Drawing from images in training: each once before any comes again, of a folder or of a store that is filled first."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from guard.data import ImageData, load
from guard.errors import ConfigError
from tests.train.outliers.store.stores import Counting, shuffler
from train.cache.held import Held
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.store.drawing import Given, Stored
from train.outliers.store.fill import fill
from train.outliers.store.store import open_store


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------------------------- given images


@pytest.fixture(scope="module")
def numbered() -> ImageData:
    """Ten images, each filled with its own number."""
    return load(
        np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3), labelled=False
    )


def epoch(source: Given, steps: int, seed: int) -> list[int]:
    source.start_epoch(steps, generator(seed))
    nothing = IDBatch(torch.zeros(0), torch.zeros(0))
    return [int(image[0, 0, 0]) for _ in range(steps) for image in source.sample(nothing, generator()).data]


def test_each_image_comes_once_before_any_comes_again(numbered: ImageData) -> None:
    seen = epoch(Given(numbered, 4), 7, seed=3)
    assert len(seen) == 28
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert len(set(seen[20:])) == 8
    assert seen[:10] != seen[10:20]


def test_the_order_is_the_seeds(numbered: ImageData) -> None:
    assert epoch(Given(numbered, 4), 5, seed=3) == epoch(Given(numbered, 4), 5, seed=3)
    assert epoch(Given(numbered, 4), 5, seed=3) != epoch(Given(numbered, 4), 5, seed=4)


def test_more_outliers_per_step_than_there_are(numbered: ImageData) -> None:
    seen = epoch(Given(numbered, 25), 1, seed=0)
    assert Counter(Counter(seen).values()) == {2: 5, 3: 5}


# -------------------------------------------------------------------------------------------------------------- stores


class Looking(Counting):
    """Uses the classifier."""

    name: ClassVar[str] = "looking"

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True


def test_stored_draws_from_the_store_it_filled(context: PrepareContext) -> None:
    source = Stored(shuffler(), 8, total=30)
    with pytest.raises(ConfigError, match="not filled yet"):
        source.pool()
    source.prepare(context)
    assert len(open_store(context.folder / "patch_shuffle")) == 30
    pool = source.pool()
    assert pool is not None
    generator = torch.Generator().manual_seed(0)
    source.start_epoch(4, generator)
    nothing = IDBatch(torch.zeros(0), torch.zeros(0))
    drawn = [source.sample(nothing, generator) for _ in range(4)]
    rows = torch.cat([d.rows for d in drawn if d.rows is not None])
    assert sorted(rows[:30].tolist()) == list(range(30))
    np.testing.assert_array_equal(torch.cat([d.data for d in drawn]).numpy(), pool.take(rows.numpy()))
    assert not source.state_dict()


def test_a_resumed_run_goes_on_with_a_whole_store_whatever_the_classifier_is_now(context: PrepareContext) -> None:
    first = Looking(16, 3, grid=2)
    Stored(first, 8, total=30).prepare(context)
    with torch.no_grad():
        next(context.module.classifier.parameters()).add_(1)
    second = Looking(16, 3, grid=2)
    Stored(second, 8, total=30).prepare(replace(context, resumed=True))  # some epochs later
    assert second.asked == 0
    with pytest.raises(ConfigError, match="classifier: "):  # a run that begins, with another classifier
        Stored(Looking(16, 3, grid=2), 8, total=30).prepare(context)
    with pytest.raises(ConfigError, match="classifier: "):  # guard synth with another classifier
        fill(context.folder / "looking", second, context, 30)


def test_stored_makes_as_many_as_there_are_training_images(context: PrepareContext) -> None:
    source = Stored(shuffler(), 8)
    source.prepare(context)
    assert len(source.pool() or ()) == 60


def test_what_a_synthesiser_decodes_with_leaves_memory_once_the_store_is_filled(context: PrepareContext) -> None:
    made: list[weakref.ref[torch.nn.Module]] = []

    class Decoding(Counting):
        """Holds a network, as those do that decode with a diffusion model."""

        name: ClassVar[str] = "decoding"

        def prepare(self, context: PrepareContext) -> None:
            self.held: Held[torch.nn.Module] = Held("call prepare first")
            made.append(weakref.ref(self.held.put(torch.nn.Linear(1, 1))))

        def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
            self.held.get()
            return super().sample(batch, generator)

    source = Stored(Decoding(8, 2), 8, total=30)
    source.prepare(context)
    gc.collect()
    assert [gone() for gone in made] == [None]
    source.start_epoch(1, generator())
    assert len(source.sample(IDBatch(torch.zeros(0), torch.zeros(0)), generator()).data) == 8
