"""fodfom whole: its stages and losses, both stores, stopping, every diffusion model, and what it detects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guard
from guard.errors import ConfigError
from guard.record import parse_options
from tests import toy_diffusion  # noqa: F401  (registers diffusion="toy")
from tests.composition import stages_of, stopped_run
from tests.conftest import DECODED, RECIPES, Arrays
from tests.tiny_transformers import save_tiny_detector
from train.losses.k_plus_1 import KPlusOneLoss
from train.losses.supcon import SupConLoss
from train.methods.base import Stage
from train.methods.fodfom import FodFoMOptions
from train.outliers.sources import Mixture
from train.outliers.store.drawing import Stored
from train.outliers.store.store import open_store

HALF = 160  # images of `four`, to be short


def few(four: Arrays) -> Arrays:
    return four[0][:HALF], four[1][:HALF]


def stages(**arguments: Any) -> list[Stage]:
    return stages_of("fodfom", epochs=20, **arguments)


# ------------------------------------------------------------------------------------------------------ composition


def test_outliers_of_both_kinds_are_one_more_class_in_both_losses() -> None:
    plain, tuning = stages()
    assert (plain.synthesiser, plain.epochs, plain.lr) == (None, 20, 0.1)
    assert (tuning.epochs, tuning.lr, tuning.trains) == (10, 0.01, "classifier")
    extra, contrast = tuning.regularisers
    assert isinstance(extra, KPlusOneLoss)
    assert isinstance(contrast, SupConLoss)
    assert (extra.weight, contrast.weight, contrast.temperature, contrast.outlier_class) == (1.0, 1.0, 0.1, True)
    assert contrast.project is not None
    assert contrast.project(torch.randn(4, 16)).shape == (4, 128)
    assert isinstance(tuning.synthesiser, Mixture)
    stores = list(tuning.synthesiser.parts)
    assert all(isinstance(store, Stored) for store in stores)
    assert {(s.name, s.count, s.total) for s in stores} == {("fodfom", 10, None), ("blurred_object", 10, None)}  # type: ignore[union-attr]


def test_options_reach_their_parts() -> None:
    (tuning,) = stages(
        initialised=True, weight=0.3, contrast=0.2, temperature=0.5, projection=0, ratio=0.5, store_size=7,
        edge={"outward": 2}, blurred={"cam_box": 0.6}, tune_epochs=3, tune_lr=0.1, match="contrast",
    )  # fmt: skip
    extra, contrast = tuning.regularisers
    assert (extra.weight, contrast.weight, contrast.temperature) == (0.3, 0.2, 0.5)  # type: ignore[attr-defined]
    assert contrast.project is None  # type: ignore[attr-defined]
    assert (tuning.epochs, tuning.lr) == (3, 0.1)
    assert isinstance(tuning.synthesiser, Mixture)
    blurred, decoded = (store for store in tuning.synthesiser.parts if isinstance(store, Stored))
    assert (decoded.count, decoded.total, decoded.synthesiser.count) == (5, 7, 7)
    assert decoded.match == blurred.match == ("contrast",)
    assert (decoded.synthesiser.options.edge.outward, blurred.synthesiser.options.cam_box) == (2, 0.6)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"blurred": {"detector": "a/b"}}, {"fodfom", "blurred_object"}),
        ({"kinds": "decoded"}, {"fodfom"}),
        ({"kinds": "blurred", "blurred": {"detector": "a/b"}}, {"blurred_object"}),
    ],
)
def test_training_starts_from_scratch_where_no_classifier_has_to_find_objects(
    options: dict[str, Any], names: set[str]
) -> None:
    (only,) = stages(**options)
    assert (only.name, only.epochs, only.lr) == ("classifier", 20, 0.1)
    assert isinstance(only.synthesiser, Mixture)
    assert {part.name for part in only.synthesiser.parts} == names  # type: ignore[union-attr]
    assert only.synthesiser.count == 20
    assert len(stages(kinds="blurred")) == 2


def test_images_can_be_named_in_place_of_its_own(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    (only,) = stages(outliers={"strokes": 1.0})
    assert only.name == "classifier"
    folder, out = tmp_path / "given", tmp_path / "run"
    guard.synth(few(four), method="strokes", out=folder, count=40, device="cpu", gallery=False)
    guard.train(few(four), method="fodfom", outliers=str(folder), out=out, **{**tiny, "epochs": 1})
    assert not (out / "outliers").exists()


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({"kinds": "decoded", "blurred": {"blur": 0.1}}, r"blurred=\{'blur': 0.1\} is not read with kinds='decoded'"),
        ({"kinds": "blurred", "edge": {"share": 0.1}}, r"edge=\{'share': 0.1\} is not read with kinds='blurred'"),
        ({"kinds": "blurred", "diffusion": {"width": 8}}, r"diffusion=\{'width': 8\} is not read with kinds='blurred'"),
        ({"contrast": 0.0, "temperature": 0.2}, "temperature=0.2 is not read with contrast=0.0"),
        ({"blurred": {"box_threshold": 0.1}}, "option blurred: box_threshold=0.1 is not read with detector=None"),
        (
            {"blurred": {"detector": "a/b", "cam_box": 0.1}},
            "option blurred: cam_box=0.1 is not read with detector='a/b'",
        ),
    ],
)
def test_options_of_outliers_and_losses_that_are_not_there_are_refused(given: dict[str, Any], unread: str) -> None:
    with pytest.raises(ConfigError, match=unread):
        parse_options(FodFoMOptions, given, "method 'fodfom'")


@pytest.mark.parametrize("option", [{"blurred": {"blur": 0.1}}, {"kinds": "decoded"}, {"edge": {"share": 0.1}}])
def test_options_of_its_own_images_are_refused_beside_given_ones(option: dict[str, Any], four: Arrays) -> None:
    with pytest.raises(ConfigError, match=f"method 'fodfom' does not read {next(iter(option))}=.* where outliers="):
        guard.train(four, method="fodfom", outliers="strokes", **option)


# ------------------------------------------------------------------------------------------------- stopped, resumed


def states(g: guard.Guard) -> dict[str, Tensor]:
    state: dict[str, Tensor] = g.module.state_dict()
    return state


@pytest.mark.parametrize("at", [1, 2], ids=["before tuning", "while tuning"])
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(
    at: int, four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**tiny, **RECIPES["fodfom"], "epochs": 1, "tune_epochs": 2, "augment": "crop", "seed": 5}
    whole = guard.train(few(four), out=tmp_path / "whole", **options)
    out = tmp_path / "stopped"
    with stopped_run(monkeypatch, lambda run, number: (run.index, number) == (1, at - 1)):
        guard.train(few(four), out=out, **options)
    torch.manual_seed(99)  # whatever happened in between
    resumed = guard.train(few(four), out=out, resume=True, **options)
    assert all(value.equal(states(resumed)[key]) for key, value in states(whole).items())
    assert resumed.threshold == whole.threshold


# ---------------------------------------------------------------------------------------------------- every model


def test_stable_diffusion_up_to_a_trained_guard(
    four: Arrays, tiny: dict[str, Any], tiny_pipeline: Path, tmp_path: Path
) -> None:
    stable = {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 2}
    options = {**tiny, **RECIPES["fodfom"], "epochs": 1, "store_size": 16, "diffusion": stable}
    g = guard.train(few(four), out=tmp_path, **options)
    for name in ("fodfom", "blurred_object"):
        pool = open_store(tmp_path / "outliers" / name).images()
        assert pool.array is not None
        assert pool.array.shape == (16, 16, 16, 3)  # the decoded ones from 32 pixels
        assert len({image.tobytes() for image in pool.array}) == 16
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()
    assert g.manifest.head == "c_plus_1"


def test_the_built_in_diffusion_model_two_grey_classes_and_a_detector(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    rows = np.flatnonzero(four[1] < 2)[:100]
    grey = four[0][rows][..., :1], four[1][rows]
    detector = {"detector": str(save_tiny_detector(tmp_path / "dino")), "box_threshold": 0.05, "max_area": 1.0}
    options = {**tiny, **DECODED, "blurred": detector, "epochs": 1, "store_size": 16, "in_chans": 1}
    g = guard.train(grey, method="fodfom", out=tmp_path / "run", **options)
    for name in ("fodfom", "blurred_object"):
        assert open_store(tmp_path / "run" / "outliers" / name).card.channels == 1
    assert g.predict(grey[0][:5]).probabilities.shape == (5, 2)
