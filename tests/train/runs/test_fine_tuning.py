"""Fine-tuning: what the recipe makes of a method's stages, what a frozen backbone keeps, who chooses the epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import guard
from guard.data import load
from guard.data.held_out import Draw, Splits
from guard.errors import ConfigError
from guard.heads import list_heads
from guard.requests import TrainRequest
from tests.conftest import RECIPES, Arrays
from tests.train.engine.runs import assert_equal
from train.backbones import create_backbone
from train.engine import stage_run
from train.engine.best_epoch import BestEpoch
from train.methods import get_method, list_methods
from train.methods.base import Stage
from train.runs.fine_tuning import divided, tuned_defaults, tuned_stages
from train.runs.resolve import asked_method, named_score, resolved

NAME = "test_resnet"  # timm's smallest
SHORT: dict[str, Any] = {"backbone": NAME, "batch_size": 32, "device": "cpu", "augment": "none", "image_size": 32}
OF_EACH_KIND = ("plain", "oe", "vos", "npos", "rejection", "rotpred", "ascood")  # what a step may hold


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    state = timm.create_model(NAME).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return str(path)


@pytest.fixture
def few(four: Arrays) -> Arrays:
    return four[0][:200], four[1][:200]


def recipe(data: Arrays, **asked: Any) -> Any:
    """The resolved configuration of a training."""
    request = TrainRequest(data=data, **asked)
    method = asked_method(request)
    source = load(data, image_size=asked.get("image_size"))
    return resolved(request, method, guard.create_score("energy"), Splits.draw(source, Draw(0), alpha=0.05), None)


def test_pretrained_networks_have_defaults_of_their_own(few: Arrays, weights: str) -> None:
    fresh, tuned = recipe(few), recipe(few, pretrained=weights, backbone=NAME, image_size=96)
    assert (fresh.epochs, fresh.lr, fresh.backbone_lr, fresh.warmup_epochs, fresh.validation) == (30, 0.1, 1.0, 0, 0)
    assert (tuned.epochs, tuned.lr, tuned.backbone_lr, tuned.warmup_epochs) == (10, 0.01, 0.1, 30)
    assert (fresh.augment, tuned.augment) == ("crop+flip", "resized_crop")
    train = len(few[1]) - tuned.calibration - tuned.test
    assert tuned.validation == round(0.1 * train)
    probe = recipe(few, pretrained=weights, backbone=NAME, freeze=True)
    assert (probe.warmup_epochs, probe.backbone_lr, probe.augment, probe.lr) == (0, 1.0, "none", 0.05)


def test_every_default_can_be_said(few: Arrays, weights: str) -> None:
    said = {"epochs": 3, "lr": 0.3, "backbone_lr": 0.5, "warmup_epochs": 0, "validation": 20, "weight_decay": 0.25}
    found = recipe(few, pretrained=weights, backbone=NAME, **said)
    assert {name: getattr(found, name) for name in said} == said
    stages = tuned_stages([Stage("classifier", 3, 0.3)], found)
    assert [(s.name, s.backbone_lr, s.weight_decay) for s in stages] == [("classifier", 0.5, 0.25)]


def test_the_head_warms_up_before_a_stage_that_trains_the_classifier(few: Arrays, weights: str) -> None:
    config = recipe(few, pretrained=weights, backbone=NAME)
    first, second = tuned_stages([Stage("classifier", 3, 0.01)], config)
    assert (first.name, first.trains, first.epochs, first.lr) == ("warm-up", "head", 30, 0.05)
    assert (first.augmented, second.augmented) == (False, True)
    assert (second.trains, second.backbone_lr) == ("classifier", 0.1)
    without = tuned_stages([Stage("classifier", 3, 0.05, head_loss=False)], config)
    assert [stage.name for stage in without] == ["classifier"]
    for stage in tuned_stages([Stage("classifier", 3, 0.05), Stage("tune", 1, 0.01, trains="nothing")], config)[1:]:
        assert stage.trains in ("classifier", "nothing")


def test_the_backbone_learns_at_its_share_of_the_rate(few: Arrays, weights: str, monkeypatch: Any) -> None:
    seen: dict[int, list[float]] = {}
    step = stage_run.StageRun._set_lr

    def watched(self: stage_run.StageRun, progress: float) -> None:
        step(self, progress)
        names = {id(p): name for name, p in self.classifier.named_parameters()}
        for group in self.optimizer.param_groups:
            parts = {names[id(p)].split(".")[0] for p in group["params"]}
            assert len(parts) <= 1
            for part in parts:
                seen.setdefault(self.index, []).append((part, group["lr"]))  # type: ignore[arg-type]

    monkeypatch.setattr(stage_run.StageRun, "_set_lr", watched)
    guard.train(few, **SHORT, pretrained=weights, epochs=2, score="energy")
    assert {part for part, _ in seen[0]} == {"head"}
    rates = {part: {lr for p, lr in seen[1] if p == part} for part in ("head", "backbone")}
    assert np.allclose(sorted(rates["backbone"]), 0.1 * np.array(sorted(rates["head"])))


def frozen_parts(g: guard.Guard) -> dict[str, torch.Tensor]:
    return {k: v for k, v in g.module.classifier.state_dict().items() if k.startswith("backbone.")}


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_method_keeps_a_frozen_backbone_to_the_bit(name: str, few: Arrays, weights: str) -> None:
    own = {k: v for k, v in RECIPES.get(name, {}).items() if k in get_method(name).Options.model_fields}
    outliers = "patch_shuffle" if get_method(name).wants_outliers == "required" else None
    g = guard.train(few, **SHORT, method=name, outliers=outliers, pretrained=weights, freeze=True, epochs=1, **own)
    state = create_backbone(NAME, image_size=32, pretrained=weights).state_dict()
    kept = frozen_parts(g)
    assert len(kept) == len(state)
    for key, value in state.items():
        assert torch.equal(kept[f"backbone.{key}"], value), key
    assert np.isfinite(g.predict(few[0][:20]).ood_score).all()


@pytest.mark.parametrize("name", ["npos", "rotpred", "energy_ft"])
def test_a_method_fine_tunes(name: str, few: Arrays, weights: str) -> None:
    own = {k: v for k, v in RECIPES.get(name, {}).items() if k in get_method(name).Options.model_fields}
    outliers = "patch_shuffle" if get_method(name).wants_outliers == "required" else None
    g = guard.train(few, **SHORT, method=name, outliers=outliers, pretrained=weights, epochs=1, **own)
    assert np.isfinite(g.predict(few[0][:20]).ood_score).all()


@pytest.mark.parametrize("head", list_heads())
def test_every_head_warms_up(head: str, few: Arrays, weights: str) -> None:
    g = guard.train(few, **SHORT, head=head, pretrained=weights, epochs=1)
    assert np.isfinite(g.predict(few[0][:20]).ood_score).all()


def test_a_frozen_backbone_of_random_weights_is_refused(few: Arrays) -> None:
    with pytest.raises(ConfigError, match="freeze=True keeps a backbone of random weights"):
        guard.train(few, **SHORT, freeze=True)


@pytest.mark.parametrize("option", [{"backbone_lr": 0.1}, {"warmup_epochs": 2}])
def test_what_a_frozen_backbone_does_not_read_is_refused(option: dict[str, Any], few: Arrays, weights: str) -> None:
    with pytest.raises(ConfigError, match="is not read with freeze=True"):
        guard.train(few, **SHORT, pretrained=weights, freeze=True, **option)


def judged(monkeypatch: pytest.MonkeyPatch, told: Iterator[float]) -> list[torch.Tensor]:
    """Held-out accuracies are those of `told`; the head's weights of each network that is judged, as they come."""
    seen: list[torch.Tensor] = []

    def accuracy(self: BestEpoch, network: torch.nn.Module, forward: object) -> float:
        seen.append(network.state_dict()["head.linear.weight"].clone())
        return next(told)

    monkeypatch.setattr(BestEpoch, "_accuracy", accuracy)
    return seen


class TestTheEpochIsChosen:
    """By accuracy on images of the training split."""

    def test_those_images_neither_train_nor_calibrate_nor_measure(self, four: Arrays) -> None:
        splits = Splits.draw(load(four), Draw(5), alpha=0.05)
        learned, chosen = divided(splits.train, 40, 5)
        assert len(chosen) == 40
        assert splits.test is not None
        parts = [set(part.rows.tolist()) for part in (learned, chosen, splits.calibration, splits.test)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == len(four[1])
        assert np.bincount(np.asarray(chosen.labels)).tolist() == [10] * 4

    def test_copies_of_an_image_are_on_one_side(self) -> None:
        images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8).repeat(3, 0)
        data = load((images, np.arange(60).repeat(3) % 2))
        learned, chosen = divided(data, 60, 0)
        assert not set(np.asarray(learned.digests).tolist()) & set(np.asarray(chosen.digests).tolist())

    def test_where_none_can_be_chosen_nothing_is_held_out(self, few: Arrays, weights: str) -> None:
        for asked, others in (({"method": "vos", "epochs": 2}, None), ({"epochs": 1, "score": "energy"}, 20)):
            a, b = (guard.train(few, **SHORT, **asked, pretrained=weights, validation=v) for v in (0, others))
            assert_equal(a, b)

    def test_too_few_are_refused(self, few: Arrays, weights: str) -> None:
        with pytest.raises(ConfigError, match=r"validation=7 images cannot choose .* at least 8, or validation=0"):
            guard.train(few, **SHORT, pretrained=weights, validation=7)

    def test_the_calibration_images_are_the_same_with_and_without(self, few: Arrays, weights: str) -> None:
        a, b = (guard.train(few, **SHORT, pretrained=weights, epochs=1, validation=v) for v in (0, 20))
        assert np.array_equal(a.splits["calibration"], b.splits["calibration"])
        assert a.manifest.data == b.manifest.data

    @pytest.mark.parametrize("best", [0, 1])
    def test_the_best_epochs_weights_are_kept(
        self, best: int, few: Arrays, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = iter([0.9 if epoch == best else 0.2 for epoch in range(3)])
        seen = judged(monkeypatch, told)
        asked = {**SHORT, "pretrained": weights, "epochs": 3, "warmup_epochs": 0, "validation": 20, "score": "energy"}
        g = guard.train(few, **asked)
        assert len(seen) == 3
        assert torch.equal(g.module.classifier.state_dict()["head.linear.weight"], seen[best])

    @pytest.mark.parametrize("better", [False, True])
    def test_what_the_warm_up_learned_is_a_candidate(
        self, better: bool, few: Arrays, weights: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = iter([0.5, 0.5, 0.5, 0.2, 0.6 if better else 0.4])  # warm-up: two epochs; before; tuning: two epochs
        seen = judged(monkeypatch, told)
        asked = {**SHORT, "pretrained": weights, "epochs": 2, "warmup_epochs": 2, "validation": 20, "score": "energy"}
        g = guard.train(few, **asked)
        assert len(seen) == 5
        assert torch.equal(seen[1], seen[2])
        assert torch.equal(g.module.classifier.state_dict()["head.linear.weight"], seen[4 if better else 2])

    def test_of_equals_the_last_is_kept(self, few: Arrays, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = {**SHORT, "pretrained": weights, "epochs": 3, "score": "energy"}
        monkeypatch.setattr(BestEpoch, "_accuracy", lambda *_: 0.5)
        chosen = guard.train(few, **asked, validation=20)
        monkeypatch.setattr(BestEpoch, "consider", lambda *_: 0.0)
        monkeypatch.setattr(stage_run.StageRun, "finish", lambda _: None)
        assert_equal(chosen, guard.train(few, **asked, validation=20))

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_accuracy_is_that_of_a_slow_count(
        self, precision: str, few: Arrays, weights: str, tmp_path: Path
    ) -> None:
        asked = {**SHORT, "pretrained": weights, "freeze": True, "epochs": 2, "validation": 20, "score": "energy"}
        g = guard.train(few, **asked, precision=precision, out=tmp_path / "a")
        splits = Splits.draw(load(few, image_size=32), Draw(0), alpha=0.05)
        _, chosen = divided(splits.train, 20, 0)
        right = float((g.predict(chosen.take(np.arange(20))).label == chosen.labels).mean())
        logged = [
            json.loads(line)["held_out_accuracy"] for line in (tmp_path / "a/metrics.jsonl").read_text().split("\n")[:2]
        ]
        assert right == pytest.approx(max(logged), abs=0.1 if precision == "bf16" else 0)  # the guard has float32


@pytest.mark.parametrize(
    ("options", "stop"),
    [({"freeze": True}, 1), ({"freeze": True, "precision": "bf16"}, 1), ({}, 1), ({"ema": 0.9}, 2)],
)
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(
    options: dict[str, Any], stop: int, few: Arrays, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**SHORT, "pretrained": weights, "epochs": 3, "validation": 20, "score": "energy", **options}
    whole = guard.train(few, out=tmp_path / "whole", **asked)
    begun, epoch = 0, stage_run.StageRun.epoch

    def interrupted(self: stage_run.StageRun, number: int) -> dict[str, float]:
        nonlocal begun
        begun += 1
        if begun > stop:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(stage_run.StageRun, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guard.train(few, out=tmp_path / "cut", **asked)
    assert_equal(guard.train(few, out=tmp_path / "cut", resume=True, **asked), whole)


def test_other_weights_under_the_same_name_are_not_resumed(few: Arrays, weights: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(Path(weights).read_bytes())
    asked = {**SHORT, "pretrained": str(mine), "epochs": 1, "out": tmp_path / "a", "score": "energy"}
    guard.train(few, **asked)
    state = timm.create_model(NAME).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, mine)
    with pytest.raises(ConfigError, match="weights: "):
        guard.train(few, **asked, resume=True)


def test_methods_that_only_classify_take_the_score_of_pretrained_networks(
    few: Arrays, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ood_guard"):
        g = guard.train(few, **SHORT, pretrained=weights, epochs=1)
    assert g.manifest.score == "combined"
    assert "score: energy+mahalanobis++, because the network starts from published weights" in caplog.text
    for asked, kept in (({"method": "vos"}, None), ({"score": "vim"}, "vim"), ({"pretrained": False}, None)):
        request = TrainRequest(**{"data": few, "pretrained": weights, **asked})
        assert named_score(request, asked_method(request)).name == kept


def test_every_method_has_a_default_recipe(weights: str) -> None:
    for name in list_methods():
        request = TrainRequest(data="digits", method=name, pretrained=weights)
        found = tuned_defaults(request, asked_method(request), 1000)
        assert (found["epochs"], found["validation"]) == (10, 100)
