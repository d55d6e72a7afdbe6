"""What is shown beside each other is augmented alike: decoded and matched images, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.graph.module import GuardModule
from guard.manifest import Normalisation
from guard.scores import create_score
from train.classifiers.fresh import build_classifier
from train.engine.loader import Feed
from train.engine.stage_run import StageRun
from train.methods.base import Stage
from train.outliers.base import SYNTHESISERS, IDBatch, Inliers, Outliers
from train.outliers.matching import Matched
from train.outliers.sources import image_source
from train.runs.request import TrainConfig

SIDE, N = 16, 24


def run(stage: Stage, augment: str = "crop") -> StageRun:
    torch.manual_seed(0)
    images = np.full((N, SIDE, SIDE, 3), 100, np.uint8)
    data = load((images, np.arange(N) % 4))
    classifier = build_classifier("wrn10_1", "linear", 4, in_chans=3, image_size=SIDE)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))
    config = TrainConfig(
        method="oe", backbone="wrn10_1", head="linear", score="energy", epochs=1, lr=0.1, batch_size=N,
        image_size=SIDE, augment=augment, calibration=0, test=0, data_fingerprint="",
    )  # fmt: skip
    return StageRun(module, stage, 0, Feed(data), config, torch.device("cpu"))


def flat() -> IDBatch:
    return IDBatch(torch.full((N, SIDE, SIDE, 3), 100, dtype=torch.uint8), torch.arange(N) % 4)


def shown(run: StageRun, batch: IDBatch) -> tuple[Tensor, Tensor]:
    """In-distribution images and outliers as they go into the network."""
    generator = torch.Generator().manual_seed(0)
    seen, outliers = run._draw(batch, generator, active=True)
    return seen.images, run._augmented_outliers(outliers, generator)


@pytest.mark.parametrize("match", [(), ("colour",)])
@pytest.mark.parametrize("name", ["salient_pixels", "rotation"])
def test_what_is_not_to_be_augmented_is_not_through_a_wrapper_either(
    name: str, match: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(self: Any, batch: IDBatch, generator: torch.Generator) -> Any:
        return Outliers(batch.images[: self.count], "as it is")

    monkeypatch.setattr(SYNTHESISERS.get(name), "sample", kept)
    source = image_source({name: 1.0}, 16, 4)
    of = run(Stage("classifier", 1, 0.1, Matched(source, match) if match else source))
    monkeypatch.setattr(of, "augment", lambda images, generator: images + 1)
    monkeypatch.setattr(of, "_mixed", lambda images, generator: None)
    images, outliers = shown(of, flat())
    assert images.unique().tolist() == [101]
    assert outliers.unique().tolist() == [101 if name == "salient_pixels" else 102]


def test_decoded_in_distribution_images_are_augmented_like_decoded_outliers() -> None:
    class Decoded(Inliers):
        def shown(self, batch: IDBatch, generator: torch.Generator) -> IDBatch:
            return batch._replace(images=torch.full_like(batch.images, 200), rows=None)

    source = image_source({"rotation": 1.0}, N, 4)
    of = run(Stage("classifier", 1, 0.1, source, inliers=Decoded()))
    images, _ = shown(of, flat())
    assert set(images.unique().tolist()) == {0, 200}  # with the border of a crop


def test_matched_in_distribution_images_are_augmented_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(batch: IDBatch, names: Sequence[str], generator: torch.Generator) -> IDBatch:
        assert batch.images.unique().tolist() == [100]  # nothing has been added yet
        return batch._replace(images=batch.images // 2, rows=None)

    monkeypatch.setattr("train.engine.stage_run.match_half", halved)
    of = run(Stage("classifier", 1, 0.1, image_source({"rotation": 1.0}, N, 4), match_inliers=("colour",)))
    images, _ = shown(of, flat())
    assert set(images.unique().tolist()) == {0, 50}
