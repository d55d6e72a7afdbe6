"""Decoded in-distribution images among those that a classifier sees: whose they are, how many, and who may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from guard.errors import ConfigError
from guard.record import parse_options
from tests import toy_diffusion  # noqa: F401  (registers diffusion="toy")
from tests.composition import stages_of
from tests.conftest import RECIPES, Arrays
from train.engine.stage_run import StageRun
from train.generators.diffusion import DiffusionOptions
from train.methods import get_method
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.decoded_inliers import DecodedInliers
from train.outliers.sources import outlier_mix
from train.outliers.store.store import open_store
from train.runs.synth import untrained

CPU = torch.device("cpu")
DECODING = ["label_mixup", "dream_ood", "bood", "ncis", "fodfom"]
SMALL: dict[str, Any] = {"model": "built-in", "epochs": 1, "width": 8, "sampling_steps": 2}


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    data = load((four[0][:160], four[1][:160]))
    return PrepareContext(untrained(data, CPU), data, tmp_path, 0, CPU)


def test_a_share_of_a_batch_is_shown_as_the_model_makes_its_classes(context: PrepareContext) -> None:
    """The toy's images are of one grey level, which its class decides."""
    made = DecodedInliers(
        0.5, "ncis", 40, (), {"diffusion": DiffusionOptions(model="toy"), "resize_kernel": "bilinear"}
    )
    made.prepare(context)
    store = open_store(context.folder / "decoded_inliers")
    assert len(store) == 20
    images = torch.randint(0, 256, (400, 16, 16, 3), dtype=torch.uint8)
    labels = torch.arange(400) % 4
    generator = torch.Generator().manual_seed(0)
    shown = made.shown(IDBatch(images, labels, torch.arange(400)), generator)
    assert shown.labels.equal(labels)
    assert shown.rows is None
    changed = (shown.images != images).flatten(1).any(1)
    assert 0.4 < changed.float().mean() < 0.6
    means = shown.images[changed].float().mean((1, 2, 3))
    of_class = [means[labels[changed] == c] for c in range(4)]
    assert max(float(m.max() - m.min()) for m in of_class if len(m)) < 12
    expected = store.images()
    assert expected.array is not None
    assert set(means.tolist()) <= set(expected.array.astype(np.float32).mean((1, 2, 3)).tolist())


def test_an_image_of_a_class_that_was_never_drawn_stays_as_it_is(context: PrepareContext) -> None:
    made = DecodedInliers(1.0, "ncis", 4, (), {"diffusion": DiffusionOptions(model="toy"), "resize_kernel": "bilinear"})
    made.prepare(context)
    made.counts[2] = 0
    images = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    labels = torch.arange(40) % 4
    shown = made.shown(IDBatch(images, labels), torch.Generator().manual_seed(0))
    assert shown.images[labels == 2].equal(images[labels == 2])


@pytest.mark.parametrize("name", DECODING)
def test_every_decoding_method_can_show_them(name: str) -> None:
    options: dict[str, Any] = {"head": None} if name == "none" else {}
    assert all(stage.inliers is None for stage in stages_of(name, **options))
    stage = stages_of(name, decoded_id=0.3, store_size=50, **options)[-1]
    assert isinstance(stage.inliers, DecodedInliers)
    assert (stage.inliers.share, stage.inliers.beside, stage.inliers.total) == (0.3, name, 50)
    treated = stages_of(name, treat_id=True, match=("contrast", "coding"), **options)[-1]
    assert treated.match_inliers == ("contrast",)
    with pytest.raises(ValueError, match="treat_id=True needs match="):
        get_method(name).Options(treat_id=True)


def test_they_are_not_read_where_nothing_is_decoded() -> None:
    with pytest.raises(ConfigError, match=r"does not read decoded_id=0.5 where outliers= names the images"):
        guard.train("no/such/folder", method="ncis", decoded_id=0.5, outliers="strokes")
    with pytest.raises(ConfigError, match=r"decoded_id=0.5 is not read with kinds='blurred'"):
        parse_options(get_method("fodfom").Options, {"kinds": "blurred", "decoded_id": 0.5}, "method 'fodfom'")
    with pytest.raises(ConfigError, match="has no option 'decoded_id'"):
        parse_options(get_method("dream_id").Options, {"decoded_id": 0.5}, "method 'dream_id'")


def test_one_diffusion_model_makes_both_and_a_stopped_run_ends_alike(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**tiny, **RECIPES["ncis"], "epochs": 2, "diffusion": SMALL, "decoded_id": 0.5, "store_size": 16}
    few = four[0][:160], four[1][:160]
    whole = guard.train(few, out=tmp_path / "whole", **options)
    assert len(list((tmp_path / "whole" / "outliers").rglob("diffusion.safetensors"))) == 1
    inliers = open_store(tmp_path / "whole" / "outliers" / "decoded_inliers")
    assert len(inliers) == 8
    with pytest.raises(ConfigError, match="holds in-distribution images"):
        outlier_mix(str(inliers.folder), load(few).preprocess)
    epoch = StageRun.epoch

    def stopped(self: StageRun, number: int) -> dict[str, float]:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            guard.train(few, out=tmp_path / "stopped", **options)
    resumed = guard.train(few, out=tmp_path / "stopped", resume=True, **options)
    assert all(value.equal(resumed.module.state_dict()[key]) for key, value in whole.module.state_dict().items())
