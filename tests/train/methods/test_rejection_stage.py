"""The stage of the rejection network: its optimizer, augmentation at each visit, and what stands for class 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.composition import stages_of
from train.generators.latent_pair import register_pair
from train.methods.base import Stage
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.published_augmentation import AugmentedAnew


def head_of(name: str, **options: Any) -> Stage:
    return stages_of(name, **options)[-1]


def test_the_heads_optimizer_is_what_the_options_say() -> None:
    official = head_of("dmr", tune_momentum=0.8, tune_weight_decay=4e-4, tune_lr=0.02)
    assert (official.momentum, official.weight_decay, official.lr, official.nesterov) == (0.8, 4e-4, 0.02, True)
    shipped = head_of("dmr")
    assert (shipped.momentum, shipped.weight_decay) == (0.9, 5e-4)
    assert not head_of("rejection", tune_momentum=0.0).nesterov  # torch has none without momentum


@pytest.mark.parametrize(
    ("name", "options", "anew"),
    [
        ("rejection", {}, False),
        ("rejection", {"augment_outliers": True}, True),
        ("dmr", {}, False),
        ("dmr", {"variant": "code"}, True),
        ("dmr", {"variant": "code", "augment_outliers": False}, False),
        ("mlm", {"augment_outliers": True}, True),
        ("dmr_kirby", {"augment_outliers": True}, True),
        ("kirby", {"augment_outliers": True}, False),  # once, into its store: patches lie outside of its regions
        ("kirby", {"augment_outliers": True, "outliers": {"strokes": 1.0}}, True),
    ],
)
def test_outliers_are_augmented_at_each_visit_where_the_options_say_so(
    name: str, options: dict[str, Any], anew: bool
) -> None:
    source = head_of(name, **options).synthesiser
    assert isinstance(source, AugmentedAnew) == anew
    stored = source.wrapped if isinstance(source, AugmentedAnew) else source
    if name == "dmr":
        assert stored.synthesiser.options.augment_outliers is False  # type: ignore[union-attr]


class Inverting:
    """A pair whose reconstructions are the images inverted."""

    def encode(self, images: Tensor) -> Tensor:
        return 255 - images.flatten(2).float()

    def generate(self, w: Tensor) -> Tensor:
        return w.round().clamp(0, 255).to(torch.uint8).unflatten(2, (-1, 3))


def test_reconstructions_stand_for_in_distribution_images(context: PrepareContext) -> None:
    """Eq. 3 of DMR: R(x) = 0 if x = G(E(x)), 1 if x = G(w - mu_y)."""
    from train.engine.loader import Feed
    from train.engine.stage_run import StageRun
    from train.runs.request import TrainConfig

    register_pair("inverting", lambda *_: Inverting())
    stage = head_of("dmr", pair="inverting", reconstruct_id=True, store_size=32)
    assert head_of("dmr", pair="inverting").inliers is None
    config = TrainConfig(
        method="dmr", backbone="wrn10_2", head="linear", score="energy", epochs=1, lr=0.1, batch_size=16,
        image_size=16, augment="none", calibration=0, test=0, data_fingerprint="",
    )  # fmt: skip
    run = StageRun(context.module, stage, 0, Feed(context.data), config, context.device)
    run.prepare(context)
    assert context.data.array is not None
    batch = IDBatch(torch.from_numpy(np.array(context.data.array[:5])), torch.arange(5), torch.arange(5))
    seen, _ = run._draw(batch, torch.Generator().manual_seed(0), active=False)
    assert seen.images.equal(255 - batch.images)
    assert seen.labels.equal(batch.labels)
    assert seen.rows is None
