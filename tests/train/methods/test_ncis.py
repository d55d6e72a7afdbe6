"""ncis whole: its stage, its store, both diffusion models, stopping, and what it detects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from scipy.stats import ks_2samp

import guard
import tests.toy_diffusion  # noqa: F401  (registers "toy")
from guard.errors import ConfigError
from tests.composition import stages_of
from tests.conftest import RECIPES, Arrays
from train.engine.stage_run import StageRun
from train.losses.energy_logistic import EnergyLogisticLoss
from train.methods.base import Stage
from train.methods.decoded import EnergyOptions
from train.methods.ncis import NCISImageOptions, NCISOptions
from train.outliers.conditioning import image_embeddings
from train.outliers.matching import Matched
from train.outliers.store.drawing import Stored
from train.outliers.store.store import open_store

HALF = 160  # images of `four`, to be short
BUILT_IN: dict[str, Any] = {"model": "built-in", "epochs": 1, "width": 8, "sampling_steps": 2}


def few(four: Arrays) -> Arrays:
    return four[0][:HALF], four[1][:HALF]


def stage(**arguments: Any) -> Stage:
    (made,) = stages_of("ncis", **arguments)
    return made


@pytest.mark.parametrize(("per_class", "total"), [(30, 120), (5000, 6400)])
def test_the_stage_is_the_papers(per_class: int, total: int) -> None:
    made = stage(per_class=per_class)
    (regulariser,) = made.regularisers
    assert isinstance(regulariser, EnergyLogisticLoss)
    assert (regulariser.weight, made.start_epoch) == (1.0, 0)
    assert isinstance(made.synthesiser, Stored)
    assert made.synthesiser.synthesiser.name == "ncis"
    assert (made.synthesiser.count, made.synthesiser.total) == (20, total)


def test_options_reach_the_parts() -> None:
    made = stage(ratio=0.5, store_size=9, start=0.3, weight=0.2, ridge=0.1, variant="code", embed={"pairs": 5})
    assert isinstance(made.synthesiser, Stored)
    own = made.synthesiser.synthesiser
    assert (made.synthesiser.count, made.synthesiser.total, made.start_epoch, own.count) == (10, 9, 3, 9)
    assert (own.options.ridge, own.options.variant, own.options.embed.pairs) == (0.1, "code", 5)
    assert made.regularisers[0].weight == 0.2  # type: ignore[attr-defined]


def test_options_that_others_have_too_are_theirs() -> None:
    """But for the weight, whose default is this paper's."""
    fields, shared = NCISOptions.model_fields, EnergyOptions.model_fields
    differ = {name for name in shared if fields[name].default != shared[name].default}
    assert differ == {"weight"}
    assert set(NCISImageOptions.model_fields) < set(fields)


def test_outliers_can_be_matched_to_in_distribution_images(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    made = stage(match="contrast").synthesiser
    assert isinstance(made, Stored)
    assert made.match == ("contrast",)
    assert isinstance(stage(outliers={"strokes": 1.0}, match="contrast").synthesiser, Matched)
    with pytest.raises(ValidationError, match="unknown match 'contras'; did you mean 'contrast'"):
        stage(match="contras")
    guard.train(few(four), out=tmp_path, match="brightness", **{**tiny, **RECIPES["ncis"], "epochs": 1})
    pool = open_store(tmp_path / "outliers" / "ncis").images()
    made, own = (images.mean((1, 2, 3)) for images in (pool.take(np.arange(len(pool))), few(four)[0]))
    assert ks_2samp(made, own).statistic < 0.3  # the toy's own are otherwise bright: 0.98


def test_a_store_can_be_named_in_place_of_the_methods_own(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    assert not isinstance(stage(outliers={"strokes": 1.0}).synthesiser, Stored)
    options = {**tiny, **RECIPES["ncis"], "epochs": 1}
    own = guard.train(few(four), out=tmp_path / "a", **options)
    store = tmp_path / "a" / "outliers" / "ncis"
    read = {
        key: value for key, value in options.items() if key not in ("diffusion", "store_size", "embed", "invariants")
    }
    again = guard.train(few(four), out=tmp_path / "b", outliers=str(store), **read)
    assert not (tmp_path / "b" / "outliers").exists()
    with pytest.raises(ConfigError, match=r"method 'ncis' does not read .* where outliers= names the images"):
        guard.train(few(four), outliers=str(store), **options)
    assert np.array_equal(own.predict(four[0]).ood_score, again.predict(four[0]).ood_score)


def test_the_learned_link_is_handed_over(four: Arrays, tiny: dict[str, Any]) -> None:
    g = guard.train(few(four), score="energy_logistic", **{**tiny, **RECIPES["ncis"], "epochs": 2})
    link = g.module.score.state_dict()["link"]
    assert not torch.equal(link, torch.tensor([2.0, 0.0]))  # where it starts
    assert link[0] > 0
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()


def test_a_run_stopped_anywhere_ends_as_an_uninterrupted_one(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once among the embeddings, and once in the second epoch."""
    options = {**tiny, **RECIPES["ncis"], "epochs": 2, "augment": "crop+flip", "seed": 5}
    monkeypatch.setattr(image_embeddings, "BLOCK", 50)
    whole = guard.train(few(four), out=tmp_path / "whole", **options)
    out, epoch, make, made = tmp_path / "stopped", StageRun.epoch, image_embeddings._block, []

    def killed(*arguments: Any) -> Any:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(1)
        return make(*arguments)

    def stopped(self: StageRun, number: int) -> dict[str, float]:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    for target, name, replacement in ((image_embeddings, "_block", killed), (StageRun, "epoch", stopped)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, replacement)
            with pytest.raises(KeyboardInterrupt):
                guard.train(few(four), out=out, resume=True, **options)
    torch.manual_seed(99)  # whatever happened in between
    resumed = guard.train(few(four), out=out, resume=True, **options)
    assert all(value.equal(resumed.module.state_dict()[key]) for key, value in whole.module.state_dict().items())
    assert resumed.threshold == whole.threshold
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        assert not any(name.startswith("synthesiser") for name in file.keys())  # noqa: SIM118


# ---------------------------------------------------------------------------------------------------- both models


@pytest.mark.parametrize("conditioning", ["token", "label"])
def test_the_built_in_model_two_classes_grey(conditioning: str, four: Arrays, tiny: dict[str, Any]) -> None:
    images, labels = four
    two = labels < 2
    model = {**BUILT_IN, "conditioning": conditioning}
    options = {**tiny, **RECIPES["ncis"], "diffusion": model, "epochs": 1, "store_size": 24}
    g = guard.train((images[two][:, :14, :, :1], labels[two]), in_chans=1, **options)
    assert g.manifest.preprocess.channels == 1
    assert np.isfinite(g.predict(images[two][:5]).ood_score).all()


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_stable_diffusion_up_to_a_trained_guard(
    variant: str, four: Arrays, tiny: dict[str, Any], tiny_pipeline: Path, tmp_path: Path
) -> None:
    stable = {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 2}
    options = {**RECIPES["ncis"], "store_size": 8, "epochs": 1, "embed": {"per_class": 8}, "variant": variant}
    g = guard.train(few(four), out=tmp_path, **{**tiny, **options, "diffusion": stable})
    store = open_store(tmp_path / "outliers" / "ncis")
    pool = store.images()
    assert pool.array is not None
    assert pool.array.shape == (16, 16, 16, 3)  # decoded at 32 pixels
    assert len({image.tobytes() for image in pool.array}) == 16  # 8 are generated, and kept by both kernels
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()
