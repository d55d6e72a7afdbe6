"""NPOS: what it composes, what its options refuse, and where its gradients go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError
from tests.conftest import RECIPES, Arrays
from train.engine.stage_run import StageRun
from train.outliers.features.knn_boundary import KNNBoundary


def test_k_and_select_keep_their_share_of_a_small_class() -> None:
    from train.methods.npos import NPOSOptions

    small, full = NPOSOptions().boundary(80), NPOSOptions().boundary(1000)
    assert (full.k, full.select, full.pick, full.n_noise, full.keep) == (300, 200, 2, 600, 200)
    assert (small.k, small.select, small.pick) == (24, 16, 2)
    tiny = NPOSOptions().boundary(3)
    assert (tiny.k, tiny.select) == (2, 2)


def test_too_few_images_and_crossed_options_are_refused(four: Arrays) -> None:
    with pytest.raises(ConfigError, match=r"picks 60 boundary points per class .* has 50 training images"):
        guard.train(four, method="npos", pick=60, device="cpu")
    with pytest.raises(ConfigError, match="select must be at most queue=100, got 200"):
        guard.train(four, method="npos", queue=100, k=50, device="cpu")
    with pytest.raises(ConfigError, match="needs tap='pooled'"):
        guard.train(four, method="npos", score="rejection", score_options={"tap": "map"}, device="cpu")


def test_the_queue_is_kept_across_epochs_and_never_partly_zero_when_it_counts(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, step = StageRun.epoch, StageRun.step
    at_start: list[torch.Tensor] = []
    counted: list[tuple[bool, bool]] = []

    def spy_epoch(self: StageRun, number: int) -> Any:
        assert isinstance(self.synthesiser, KNNBoundary)
        at_start.append(self.synthesiser.queue.features.clone())
        return epoch(self, number)

    def spy_step(self: StageRun, *arguments: Any) -> Any:
        logged = step(self, *arguments)
        assert isinstance(self.synthesiser, KNNBoundary)
        assert {group["factor"] for group in self.optimizer.param_groups} == {1.0, 5.0}  # the network's own rate
        lengths = self.synthesiser.queue.features.norm(dim=-1)
        if "rejection" in logged:
            counted.append((bool(logged["rejection"] > 0), bool((lengths > 0.99).all())))
        return logged

    monkeypatch.setattr(StageRun, "epoch", spy_epoch)
    monkeypatch.setattr(StageRun, "step", spy_step)
    guard.train(four, **{**tiny, **RECIPES["npos"], "start": 0.0, "epochs": 3})
    assert not at_start[0].any()
    assert all((kept.norm(dim=-1) > 0.99).all() for kept in at_start[1:])
    assert counted[0] == (False, False)  # while it fills, the outliers count nothing
    assert counted[-1] == (True, True)
    assert all(counts == full for counts, full in counted)


def test_two_views_of_each_image_are_augmented_apart(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, seen = StageRun._draw, []

    def spy(self: StageRun, *arguments: Any) -> Any:
        drawn = draw(self, *arguments)
        seen.append(drawn[0])
        return drawn

    monkeypatch.setattr(StageRun, "_draw", spy)
    options = {**tiny, **RECIPES["npos"], "augment": "crop", "epochs": 1, "batch_size": 16}
    guard.train(four, **options, views=2)
    batch = seen[0]
    assert len(batch.images) == len(batch.labels) == 32
    assert batch.labels[:16].equal(batch.labels[16:])
    assert not batch.images[:16].equal(batch.images[16:])
    assert set(batch.rows[:16].tolist()) == set(batch.rows[16:].tolist())


def test_its_network_can_be_the_score_and_is_exported(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    options = {**tiny, **RECIPES["npos"], "score": "rejection", "score_options": {"hidden": 16}, "epochs": 2}
    g = guard.train(four, **options)
    assert g.module.score.mlp[0].weight.shape == (16, 128)
    exported = guard.load(guard.export(g, tmp_path / "npos.onnx"))
    images = four[0][:20]
    np.testing.assert_allclose(exported.predict(images).ood_score, g.predict(images).ood_score, rtol=1e-3, atol=1e-4)
    folder = g.save_pretrained(tmp_path / "npos")
    assert guard.Guard.from_pretrained(folder, device="cpu").threshold == g.threshold


def test_a_linear_head_gets_outliers_as_long_as_its_features(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []
    sample = KNNBoundary.sample

    def spy(self: KNNBoundary, *arguments: Any) -> Any:
        outliers = sample(self, *arguments)
        if outliers.ready:
            kept = self.queue.features.norm(dim=-1)
            lengths = outliers.data.norm(dim=-1)
            made.append(float(((lengths > kept.min() - 1e-3) & (lengths < kept.max() + 1e-3)).float().mean()))
        return outliers

    monkeypatch.setattr(KNNBoundary, "sample", spy)
    options = {**tiny, **RECIPES["npos"], "head": "linear", "head_options": None, "epochs": 2, "start": 0.0}
    options["renormalise"] = True
    guard.train(four, **options)
    assert made
    assert min(made) == 1.0
