"""What a stage trains and leaves alone, and that held-out images are never trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guard
from guard.graph.outputs import Outputs
from guard.heads import LinearHead
from tests.conftest import RECIPES, Arrays
from tests.train.engine.runs import Tiny, short
from train.engine.loader import Feed
from train.engine.stage_run import StageRun
from train.losses.base import Batch
from train.losses.energy_logistic import EnergyLogisticLoss


@pytest.mark.parametrize("name", ["rejection", "rejection-map"])
def test_a_frozen_stage_leaves_every_answer_as_it_was(name: str, trained: Callable[[str], Any], four: Arrays) -> None:
    """The rejection network's classifier is the plain one, to the bit: weights, statistics, probabilities."""
    plain, rejection = trained("plain"), trained(name)
    for key, value in plain.module.classifier.state_dict().items():
        assert torch.equal(value, rejection.module.classifier.state_dict()[key]), key
    a, b = plain.predict(four[0][:64]), rejection.predict(four[0][:64])
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
    np.testing.assert_array_equal(a.label, b.label)
    assert plain.manifest.metrics["test_accuracy"] == rejection.manifest.metrics["test_accuracy"]


def test_mixup_keeps_the_batch_norm_statistics(trained: Callable[[str], Any]) -> None:
    plain, mim = (trained(name).module.classifier.state_dict() for name in ("plain", "mim"))
    statistics = [key for key in plain if "running" in key or "num_batches" in key]
    assert statistics
    assert all(torch.equal(plain[key], mim[key]) for key in statistics)
    assert not torch.equal(plain["backbone.stem.weight"], mim["backbone.stem.weight"])


def test_held_out_images_are_never_trained_on(four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    batches = Feed.batches

    def spy(self: Feed, *arguments: Any) -> Any:
        for batch in batches(self, *arguments):
            seen.append(batch.images.clone())
            yield batch

    monkeypatch.setattr(Feed, "batches", spy)
    images = four[0].copy()
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(400) // 256, np.arange(400) % 256  # each carries its number
    g = guard.train((images, four[1]), **{**tiny, "epochs": 3})
    marks = torch.cat(seen)[:, 0, 0].long()
    numbers = set((256 * marks[:, 0] + marks[:, 1]).tolist())
    splits = {name: set(rows.tolist()) for name, rows in g.splits.items()}
    assert numbers == splits["train"]  # three epochs, each leaving out the rest of a batch, show every image
    assert not numbers & (splits["calibration"] | splits["test"])
    assert sorted([*splits["train"], *splits["calibration"], *splits["test"]]) == list(range(400))


def test_the_threshold_and_the_numbers_come_from_the_held_out_images(
    trained: Callable[[str], Any], four: Arrays
) -> None:
    g = trained("plain")
    held, test = (four[0][g.splits[name]] for name in ("calibration", "test"))
    np.testing.assert_allclose(g.manifest.calibration.scores, np.sort(g.predict(held).ood_score), rtol=1e-5, atol=1e-5)
    verdicts = g.predict(test)
    assert g.manifest.metrics["test_accuracy"] == (verdicts.label == four[1][g.splits["test"]]).mean()
    assert g.manifest.metrics["test_false_alarm_rate"] == verdicts.is_ood.mean()


def test_vos_teaches_the_backbone_the_head_and_the_link(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real steps, the regulariser's own gradients: W and b through the outliers, the backbone through the energies
    of in-distribution images. One public copy has neither. Before every queue is full there are none at all."""
    step, loss = StageRun.step, EnergyLogisticLoss.loss
    through_outliers: list[float] = []
    reached: list[dict[str, float]] = []
    running: list[StageRun] = []

    def spy_loss(self: EnergyLogisticLoss, batch: Batch) -> dict[str, Tensor]:
        head = running[0].classifier.head.linear
        outside = Batch(
            Outputs(batch.inliers.features, batch.inliers.logits.detach(), None), batch.labels, batch.outliers
        )
        gradients = torch.autograd.grad(loss(self, outside)["energy"], [head.weight, head.bias], retain_graph=True)
        through_outliers.append(min(float(g.abs().max()) for g in gradients))
        return loss(self, batch)

    def spy_step(self: StageRun, *arguments: Any) -> Any:
        running[:] = [self]
        losses = step(self, *arguments)
        parts = {
            "stem": self.classifier.backbone.stem.weight,
            "W": self.classifier.head.linear.weight,
            "b": self.classifier.head.linear.bias,
            "w": self.regularisers[0].class_weights,
            "slope": self.regularisers[0].slope,
            "offset": self.regularisers[0].offset,
        }
        reached.append({name: float(p.grad.abs().max()) for name, p in parts.items() if p.grad is not None})
        return losses

    monkeypatch.setattr(StageRun, "step", spy_step)
    monkeypatch.setattr(EnergyLogisticLoss, "loss", spy_loss)
    monkeypatch.setattr(LinearHead, "loss", lambda self, features, logits, labels: {"ce": logits.sum() * 0})
    guard.train(short(four), **{**tiny, **RECIPES["vos"], "start": 0.0, "epochs": 4})
    assert min(through_outliers) > 0
    assert set(reached[-1]) == {"stem", "W", "b", "w", "slope", "offset"}
    assert min(reached[-1].values()) > 0
    assert max(reached[0].values()) == 0


def test_ratios_are_of_the_images_that_a_batch_holds(four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer images than `batch_size` a batch holds all."""
    seen: list[tuple[int, int]] = []
    outputs = StageRun._outputs

    def spy(self: StageRun, batch: Any, outliers: Any, *more: Any) -> Any:
        seen.append((len(batch.images), len(outliers.data)))
        return outputs(self, batch, outliers, *more)

    monkeypatch.setattr(StageRun, "_outputs", spy)
    few = four[0][:80], four[1][:80]
    guard.train(few, method="oe", outliers="strokes", ratio=0.5, **{**tiny, "epochs": 1, "batch_size": 256})
    ((images, outliers),) = seen
    assert outliers == round(0.5 * images)
    assert images < 80
