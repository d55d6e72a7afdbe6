"""OAL, whole: what it trains, that it can be stopped anywhere, and that nothing of what taught it stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import guard
from guard.demo import images as demo_images
from guard.errors import ConfigError
from guard.evaluation import metrics
from guard.record import parse_options
from tests import toy_diffusion  # noqa: F401  (registers diffusion="toy")
from tests.composition import stopped_run
from tests.conftest import RECIPES, Arrays
from train.engine.stage_run import StageRun
from train.losses.distillation import DistillationLoss
from train.losses.mutual_information import MutualInformationLoss
from train.methods.base import MethodContext
from train.methods.oal import OAL, OALOptions
from train.teacher import Teacher

Tiny = dict[str, Any]
BUILT_IN: dict[str, Any] = {"epochs": 1, "width": 8, "sampling_steps": 2}


def short(four: Arrays) -> Arrays:
    return four[0][::3], four[1][::3]


def records(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def differing(a: guard.Guard, b: guard.Guard) -> list[str]:
    theirs = b.module.state_dict()
    return [key for key, value in a.module.state_dict().items() if not value.equal(theirs[key])]


def options(tiny: Tiny, **more: Any) -> Tiny:
    return {**tiny, **RECIPES["oal"], "backbone": "wrn10_2", "epochs": 1, "augment": "crop", "seed": 5, **more}


# ------------------------------------------------------------------------------------------------- what is learned


def test_its_terms_are_logged_and_its_guard_is_a_plain_classifier(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    g = guard.train(short(four), out=tmp_path / "run", **options(tiny))
    last = records(tmp_path / "run")[-1]
    assert last["stage"] == "oal"
    assert {"ce", "kd_logits", "kd_features", "mi_boundary", "mi_latents"} <= set(last)
    plain = guard.train(short(four), **{**tiny, "backbone": "wrn10_2", "epochs": 1, "score": "energy"})
    assert set(g.module.state_dict()) == set(plain.module.state_dict())


def test_checkpoints_hold_what_learns_and_not_the_teacher(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **options(tiny))
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        names = {name.rsplit(".", 1)[0] for name in file.keys()}  # noqa: SIM118  (no mapping protocol)
    of_stage = {name.split(".")[1].split("/")[1] for name in names if name.startswith("regulariser1")}
    assert of_stage == {"transfer", "q"}
    assert any(name.startswith("optimizer.regulariser.1.q/") for name in names)
    assert len(list((tmp_path / "outliers").glob("teacher-*/checkpoint.safetensors"))) == 1


def test_weights_of_zero_leave_the_fine_tuning_alone(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    none = dict.fromkeys(("logit_weight", "feature_weight", "boundary_weight", "latent_weight"), 0.0)
    guard.train(short(four), out=tmp_path, **options(tiny, **none))
    assert set(records(tmp_path)[-1]) == {"stage", "stage_index", "epoch", "loss", "accuracy", "ce", "lr", "threads"}
    assert not (tmp_path / "outliers").exists()  # nothing asked for them, nor for a teacher


def test_the_papers_ablation_is_energy_in_place_of_all_it_has(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """Table A compares an energy loss with the bounds *and* the distillation."""
    asked = {"regulariser": "energy", "logit_weight": 0.0, "feature_weight": 0.0}
    guard.train(short(four), out=tmp_path, **options(tiny, **asked))
    terms = set(records(tmp_path)[-1]) - {"stage", "stage_index", "epoch", "loss", "accuracy", "lr", "threads"}
    assert terms == {"ce", "energy_boundary", "energy_latents"}


def test_no_teacher_answers_where_nothing_of_it_is_taught(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "outputs", lambda *_: pytest.fail("the teacher answered in a step"))
    guard.train(short(four), **options(tiny, logit_weight=0.0, feature_weight=0.0))


def test_the_energy_ablation_takes_the_place_of_the_bounds(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **options(tiny, regulariser="energy"))
    last = records(tmp_path)[-1]
    assert {"energy_boundary", "energy_latents", "kd_logits"} <= set(last)
    assert "mi_boundary" not in last


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("likelihood", "student_teacher")),
        ({"q_update": "joint", "direction": "teacher_student"}, ("joint", "teacher_student")),
    ],
)
def test_how_the_losses_learn_is_said_by_options(
    given: Tiny, expected: tuple[str, ...], four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    stages = OAL.stages

    def spy(self: OAL, context: MethodContext) -> Any:
        distillation, *bounds = stages(self, context)[-1].regularisers
        assert isinstance(distillation, DistillationLoss)
        for bound in bounds:
            assert isinstance(bound, MutualInformationLoss)
            seen.append([bound.q_update, distillation.direction])
        raise KeyboardInterrupt

    monkeypatch.setattr(OAL, "stages", spy)
    with pytest.raises(KeyboardInterrupt):
        guard.train(short(four), **options(tiny, **given))
    assert seen == [list(expected)] * 2


def test_the_published_learning_rates_belong_to_the_groups(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, rates = StageRun.step, []

    def spy(self: StageRun, *arguments: Any) -> Any:
        if self.stage.name == "oal":
            rates.append([group["lr"] for group in self.optimizer.param_groups if group["params"]])
        return step(self, *arguments)

    monkeypatch.setattr(StageRun, "step", spy)
    guard.train(short(four), **options(tiny, q_update="joint"))
    assert set(np.round(rates[0], 7)) == {0.005, 0.01, 0.0001}
    rates.clear()
    guard.train(short(four), **options(tiny))
    assert set(np.round(rates[0], 7)) == {0.005, 0.01}  # q has an Adam of its own


# ------------------------------------------------------------------------------------------------- stopped, resumed


@pytest.mark.parametrize("q_update", ["likelihood", "joint"])
def test_two_runs_are_equal_and_a_stopped_one_ends_alike(
    q_update: str, four: Arrays, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of its last stage: q, its Adam, the transfer and its batch norms resume."""
    arguments = options(tiny, q_update=q_update)
    whole = guard.train(short(four), out=tmp_path / "whole", **arguments)
    out = tmp_path / "stopped"
    with stopped_run(monkeypatch, lambda run, number: (run.stage.name, number) == ("oal", 1)):
        guard.train(short(four), out=out, **arguments)
    torch.manual_seed(99)  # whatever happened in between
    resumed = guard.train(short(four), out=out, resume=True, **arguments)
    assert not differing(whole, resumed)
    assert records(out) == records(tmp_path / "whole")
    assert not differing(whole, guard.train(short(four), **arguments))


# ------------------------------------------------------------------------------------------------- edges


def test_two_classes_in_grey_on_a_trained_network(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    images, labels = four
    two = labels < 2
    grey = images[two][:, :14, :, :1], labels[two]
    guard.train(
        grey, in_chans=1, out=tmp_path / "plain", **{**tiny, "backbone": "wrn10_2", "epochs": 1, "score": "energy"}
    )
    g = guard.train(grey, in_chans=1, init=tmp_path / "plain", out=tmp_path / "oal", **options(tiny))
    assert [line["stage"] for line in records(tmp_path / "oal")] == ["oal", "oal"]
    assert g.manifest.preprocess.channels == 1
    assert np.isfinite(g.predict(images[two][:5]).ood_score).all()


def test_wrong_options_are_one_sentence(four: Arrays, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"method 'oal' option q_update: .*'likelihood' or 'joint'"):
        guard.train(four, **options(tiny, q_update="nearest"))
    with pytest.raises(ConfigError, match="makes its own outliers"):
        guard.train(four, outliers="patch_shuffle", **options(tiny))
    assert OALOptions().boundary.fitted(500, 1.0).outliers == 1000


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        (
            {"regulariser": "energy", "boundary_weight": 0.3},
            "boundary_weight=0.3 is not read with regulariser='energy'",
        ),
        ({"regulariser": "energy", "latent_weight": 0.3}, "latent_weight=0.3 is not read with regulariser='energy'"),
        ({"regulariser": "energy", "q_update": "joint"}, "q_update='joint' is not read with regulariser='energy'"),
        ({"regulariser": "energy", "q_steps": 2}, "q_steps=2 is not read with regulariser='energy'"),
        ({"energy_weight": 1.0}, "energy_weight=1.0 is not read with regulariser='mutual_information'"),
        ({"q_update": "joint", "q_steps": 2}, "q_steps=2 is not read with q_update='joint'"),
    ],
)
def test_options_that_the_chosen_losses_do_not_read_are_refused(given: Tiny, unread: str) -> None:
    with pytest.raises(ConfigError, match=f"method 'oal': {unread}"):
        parse_options(OALOptions, given, "method 'oal'")


# ------------------------------------------------------------------------------------------------- diffusion models


def test_on_the_built_in_diffusion_model(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    g = guard.train(short(four), out=tmp_path, **options(tiny, diffusion=BUILT_IN))
    assert np.isfinite(g.predict(four[0][:5]).ood_score).all()
    assert len(list((tmp_path / "outliers").glob("latents-*/00000.safetensors"))) == 1


def test_on_stable_diffusion(four: Arrays, tiny: Tiny, tmp_path: Path, tiny_pipeline: Path) -> None:
    images, labels = short(four)
    for name, c in (("cat", 0), ("dog", 1), ("frog", 2)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == c]):
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    stable = {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 2}
    arguments = options(tiny, diffusion=stable)
    g = guard.train(tmp_path / "images", out=tmp_path / "run", **{**arguments, "num_latents": 3})
    assert g.manifest.class_names == ("cat", "dog", "frog")
    assert np.isfinite(g.predict(images[:5]).ood_score).all()


@pytest.mark.slow
def test_on_digits_it_gains_somewhere_and_loses_little_nearby(digits: Callable[[str], Arrays], tmp_path: Path) -> None:
    """Against the network it starts from: labels as good, digits 8 and 9 within a point, some other set told better."""
    inside, held = digits("0-7"), digits("8-9")[0]
    common: Tiny = {"backbone": "wrn10_2", "batch_size": 32, "device": "cpu", "augment": "crop", "score": "energy"}
    plain = guard.train(inside, out=tmp_path / "plain", epochs=10, **common)
    own: Tiny = {"diffusion": {"epochs": 5, "width": 16, "sampling_steps": 10}, "boundary": {"n_noise": 300}}
    tuned = guard.train(
        inside,
        method="oal",
        init=tmp_path / "plain",
        out=tmp_path / "oal",
        **{**common, **own, "teacher": {"model": "wrn16_2", "epochs": 12}, "tune_epochs": 6},
    )
    sets = [held] + [
        np.ascontiguousarray(make(300, 32)[:, ::2, ::2])
        for make in (demo_images.photo_patches, demo_images.smooth_noise, demo_images.letters)
    ]

    def aurocs(g: guard.Guard) -> list[float]:
        scores = g.predict(inside[0][g.splits["test"]]).ood_score
        return [metrics.auroc(scores, g.predict(images).ood_score) for images in sets]

    gains = [after - before for before, after in zip(aurocs(plain), aurocs(tuned), strict=True)]
    assert tuned.manifest.metrics["test_accuracy"] > plain.manifest.metrics["test_accuracy"] - 0.01
    assert gains[0] > -0.01
    assert max(gains) > 0.002
