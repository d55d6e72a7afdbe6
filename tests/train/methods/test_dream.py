"""dream_ood, dream_id and bood whole: their losses, stores, diffusion models, stopping, and what they detect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

import guard
from guard.data import load
from guard.graph.outputs import Outputs
from guard.heads import create_head
from tests.composition import stages_of, stopped_run
from tests.conftest import DECODED, RECIPES, Arrays
from train.losses.base import Batch
from train.losses.energy_logistic import EnergyLogisticLoss
from train.losses.union_loss import UnionLoss
from train.methods.base import Stage
from train.methods.dream import DreamIDImages
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.matching import Matched
from train.outliers.store.drawing import Stored
from train.outliers.store.labelled import LabelledStore
from train.outliers.store.shards import read_made
from train.outliers.store.store import open_store
from train.runs.synth import untrained

NAMES = ["dream_ood", "dream_id", "bood"]
HALF = 160  # images of `four`, to be short


def few(four: Arrays) -> Arrays:
    return four[0][:HALF], four[1][:HALF]


def stage(name: str, **arguments: Any) -> Stage:
    (made,) = stages_of(name, **arguments)
    return made


# ------------------------------------------------------------------------------------------------------ composition


@pytest.mark.parametrize("name", ["dream_ood", "bood"])
def test_outliers_are_told_apart_by_energy_from_the_first_epoch_on(name: str) -> None:
    made = stage(name)
    (regulariser,) = made.regularisers
    assert isinstance(regulariser, EnergyLogisticLoss)
    assert (regulariser.weight, made.start_epoch, made.head_loss) == (2.5, 0, True)
    assert isinstance(made.synthesiser, Stored)
    assert (made.synthesiser.count, made.synthesiser.total) == (20, None)
    own = made.synthesiser.synthesiser
    assert own.name == name
    other = stage(
        name, weight=1.0, ratio=0.5, start=0.3, store_size=7, diffusion={"sampling_steps": 3}, encoder={"epochs": 2}
    )
    assert isinstance(other.synthesiser, Stored)
    assert (other.regularisers[0].weight, other.start_epoch) == (1.0, 3)  # type: ignore[attr-defined]
    assert (other.synthesiser.count, other.synthesiser.total, other.synthesiser.synthesiser.count) == (10, 7, 7)
    options = other.synthesiser.synthesiser.options
    assert (options.diffusion.sampling_steps, options.encoder.epochs) == (3, 2)


@pytest.mark.parametrize("name", ["dream_ood", "dream_id", "bood", "fodfom"])
def test_how_many_are_denoised_at_once_decides_no_image(name: str) -> None:
    """A draw is as large whatever `sampling_batch` is; how it is divided changes nothing (`BuiltInDiffusion`)."""
    counts = set()
    for size in (4, 8, 64):
        synthesiser = stages_of(name, diffusion={"sampling_batch": size})[-1].synthesiser
        stores = [part for part in synthesiser.modules() if isinstance(part, Stored)] if synthesiser else []
        counts.add(next(s.synthesiser.count for s in stores if s.name == name))
    assert counts == {64}


@pytest.mark.parametrize("name", ["dream_ood", "bood"])
def test_a_store_can_be_named_in_place_of_the_methods_own(
    name: str, four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "given"
    guard.synth(few(four), method="strokes", out=folder, count=40, device="cpu", gallery=False)
    out = tmp_path / "run"
    guard.train(few(four), method=name, outliers=str(folder), out=out, **{**tiny, "epochs": 1})
    assert not (out / "outliers" / name).exists()


def test_images_can_be_matched_to_in_distribution_ones(four: Arrays) -> None:
    """In a store of the method's own, and when drawn from what `outliers=` names."""
    made = stage("dream_id", match="contrast").synthesiser
    assert isinstance(made, Stored)
    assert made.match == ("contrast",)
    given = stage("bood", outliers={load(few(four), labelled=False): 1.0}, match=("contrast",)).synthesiser
    assert isinstance(given, Matched)
    with pytest.raises(ValidationError, match="unknown match 'contras'; did you mean 'contrast'"):
        stage("bood", match="contras")


def test_dream_id_trains_on_the_union_as_one_set() -> None:
    made = stage("dream_id")
    assert isinstance(made.synthesiser, LabelledStore)
    assert not made.head_loss
    torch.manual_seed(0)
    head = create_head("linear", 5, 4)
    inside, outside = torch.randn(6, 5), torch.randn(3, 5)
    labels, more = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 0])
    outputs = [Outputs(h, head(h), None) for h in (inside, outside)]
    (term,) = UnionLoss().loss(Batch(outputs[0], labels, outputs[1], more, head)).values()
    each = [-F.log_softmax(head(h), -1)[y].item() for h, y in zip([*inside, *outside], [*labels, *more], strict=True)]
    assert term.item() == pytest.approx(sum(each) / 9, rel=1e-6)


def test_every_generated_image_of_dream_id_has_its_class(four: Arrays, tmp_path: Path) -> None:
    data = load(few(four))
    context = PrepareContext(untrained(data, torch.device("cpu")), data, tmp_path, 0, torch.device("cpu"))
    options = {key: value for key, value in DECODED.items() if key != "store_size"}
    store = LabelledStore(DreamIDImages(20, 4, **options), 8, 30)
    store.prepare(context)
    parents, _ = read_made(open_store(tmp_path / "dream_id").paths())
    assert {tuple(row) for row in parents} == {(0,), (1,), (2,), (3,)}
    pool = store.pool()
    assert pool is not None
    generator = torch.Generator().manual_seed(0)
    store.start_epoch(4, generator)
    batch = IDBatch(torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    for _ in range(3):
        made = store.sample(batch, generator)
        assert made.labels is not None
        assert made.rows is not None
        assert made.labels.tolist() == [parents[row][0] for row in made.rows.tolist()]
        assert made.data.numpy().tolist() == pool.take(made.rows.numpy()).tolist()


def test_the_learned_link_is_handed_over(four: Arrays, tiny: dict[str, Any]) -> None:
    g = guard.train(few(four), score="energy_logistic", **{**tiny, **RECIPES["bood"], "epochs": 2})
    state = g.module.score.state_dict()
    assert (state["link"] - torch.tensor([2.0, 0.0])).abs().min() > 1e-3
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()


# ------------------------------------------------------------------------------------------------- stopped, resumed


def states(g: guard.Guard) -> dict[str, Tensor]:
    return g.module.state_dict()


@pytest.mark.parametrize("name", ["dream_ood", "dream_id"])
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(
    name: str, four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**tiny, **RECIPES[name], "epochs": 2, "augment": "crop+flip", "seed": 5}
    whole = guard.train(few(four), out=tmp_path / "whole", **options)
    out = tmp_path / "stopped"
    with stopped_run(monkeypatch, lambda run, number: number == 1):
        guard.train(few(four), out=out, **options)
    torch.manual_seed(99)  # whatever happened in between
    resumed = guard.train(few(four), out=out, resume=True, **options)
    assert all(value.equal(states(resumed)[key]) for key, value in states(whole).items())
    assert resumed.threshold == whole.threshold


# ---------------------------------------------------------------------------------------------------- both models


@pytest.mark.parametrize("name", NAMES)
def test_stable_diffusion_up_to_a_trained_guard(
    name: str, four: Arrays, tiny: dict[str, Any], tiny_pipeline: Path, tmp_path: Path
) -> None:
    stable = {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 2}
    options = {**RECIPES[name], "store_size": 16, "epochs": 1, "diffusion": stable}
    g = guard.train(few(four), out=tmp_path, **{**tiny, **options})
    store = open_store(tmp_path / "outliers" / name)
    pool = store.images()
    assert pool.array is not None
    assert pool.array.shape == (16, 16, 16, 3)  # decoded at 32 pixels
    assert len({image.tobytes() for image in pool.array}) == 16
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()
