"""Outliers go through the augmentation once, as the images that they are made of: its traces tell nothing apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from train.outliers.base import IDBatch, Inliers, Outliers
from train.outliers.images.salient_pixels import SalientPixels
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


OF_IMAGES = ("phase_mix", "patch_shuffle", "pixel_average", "mask_mix", "patch_mix", "warp", "rotation")


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("match", [(), ("spectrum",)])
def test_flat_images_make_outliers_with_the_border_of_one_crop(name: str, match: Sequence[str]) -> None:
    """What is not of the image's grey is the border that a crop adds, once."""
    source = image_source({name: 1.0}, 200, 4)
    stage = Stage("classifier", 1, 0.1, Matched(source, match) if match else source)
    images, outliers = shown(run(stage), flat())
    borders = [(part.float() - 100).abs().amax(-1).gt(30).float().mean().item() for part in (images, outliers)]
    assert borders[0] > 0.05
    assert borders[1] == pytest.approx(borders[0], abs=0.06)


@pytest.mark.parametrize("sources", [{"salient_pixels": 1.0}, {"salient_pixels": 1.0, "rotation": 1.0}])
@pytest.mark.parametrize("match", [(), ("colour",)])
def test_what_is_not_augmented_afterwards_is_made_of_augmented_images(
    sources: Mapping[str, float], match: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of a mixture is augmented once: either before or after."""

    def kept(self: SalientPixels, batch: IDBatch, generator: torch.Generator) -> Any:
        return Outliers(batch.source(augmented=False)[: self.count], "as it is")

    monkeypatch.setattr(SalientPixels, "sample", kept)
    source = image_source(dict(sources), 16, 4)
    of = run(Stage("classifier", 1, 0.1, Matched(source, match) if match else source))
    monkeypatch.setattr(of, "augment", lambda images, generator: images + 1)
    monkeypatch.setattr(of, "_mixed", lambda images, generator: None)
    images, outliers = shown(of, flat())
    assert images.unique().tolist() == [101]
    assert outliers.unique().tolist() == [101]


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
