"""ASCOOD: what it is shown, and that it learns what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.evaluation import metrics
from guard.graph.outputs import Classifier
from guard.requests import TrainRequest
from tests.conftest import Arrays
from train.engine.forward import Forward
from train.losses.uniform_target import UniformTargetLoss
from train.outliers.images.salient_pixels import SalientPixels
from train.runs.resolve import asked_method, asked_score


def test_outliers_are_made_of_the_augmented_batch_with_its_true_labels_and_shown_as_they_are(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, forward = SalientPixels.sample, Forward.outputs
    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    seen: list[torch.Tensor] = []

    def spy_sample(self: SalientPixels, batch: Any, generator: Any) -> Any:
        outliers = sample(self, batch, generator)
        known = {image.tobytes(): label for image, label in zip(four[0], four[1], strict=True)}
        unchanged = [known.get(image.tobytes()) for image in batch.images.numpy()]
        assert all(k in (None, int(label)) for k, label in zip(unchanged, batch.labels, strict=True))
        made.append((batch.images, outliers.data))
        return outliers

    def spy_forward(self: Forward, images: torch.Tensor) -> Any:
        seen.append(images)
        return forward(self, images)

    monkeypatch.setattr(SalientPixels, "sample", spy_sample)
    monkeypatch.setattr(Forward, "outputs", spy_forward)
    options = {**tiny, "epochs": 1, "augment": "crop+flip", "backbone": "wrn10_2"}
    guard.train(four, method="ascood", ratio=0.5, **options)
    assert made
    for (images, outliers), shown in zip(made, seen, strict=True):
        assert len(outliers) == 16
        assert shown.equal(torch.cat([images, outliers]))


def test_the_loss_is_cross_entropy_and_the_weighed_uniform_target_of_standardised_features(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = UniformTargetLoss.loss
    terms: list[tuple[float, float]] = []

    def spy(self: UniformTargetLoss, batch: Any) -> Any:
        found = loss(self, batch)
        p = batch.outliers.logits.float().softmax(-1).double()
        h = batch.outliers.features.double()
        z = 0.5 * (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True, correction=0)
        last = batch.head.last_layer()
        torch.testing.assert_close(
            (z.float() @ last.weight.T + last.bias).softmax(-1).double(), p, rtol=2e-3, atol=2e-4
        )
        terms.append((found["uniform"].item(), -3 * p.log().mean().item()))
        return found

    monkeypatch.setattr(UniformTargetLoss, "loss", spy)
    monkeypatch.setattr("train.engine.forward.mixed_precision", lambda device: __import__("contextlib").nullcontext)
    guard.train(four, method="ascood", weight=3.0, **{**tiny, "epochs": 1, "backbone": "wrn10_2"})
    for found, expected in terms:
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"mode": "gradient", "step": 20.0, "step_end": 2.0, "weight": 0.2}])
def test_grey_images_of_two_classes(options: dict[str, Any], four: Arrays, tiny: dict[str, Any]) -> None:
    images = four[0][:, :, 2:, :1][four[1] < 2], four[1][four[1] < 2]  # and not square
    g = guard.train(
        images, method="ascood", lr=0.02, **options, **{**tiny, "epochs": 4, "backbone": "wrn10_2", "in_chans": 1}
    )
    assert g.manifest.preprocess.channels == 1
    assert g.manifest.metrics["test_accuracy"] > 0.8
    assert isinstance(g.runtime.module.classifier, Classifier)
    assert np.isfinite(g.predict(images[0]).ood_score).all()


def test_it_learns_to_doubt_images_whose_salient_pixels_are_permuted(digits: Any, tiny: dict[str, Any]) -> None:
    """Digits of unseen classes: strokes of digits, in the wrong places; by more than a plain network does."""
    (images, labels), (others, _) = digits("0-5"), digits("6-9")
    found = {}
    for method, head in (("ascood", None), ("plain", "linear")):
        given = {} if head is None else {"head": head}
        g = guard.train(
            (images, labels), method=method, score="msp", **given, **{**tiny, "epochs": 6, "backbone": "wrn10_2"}
        )
        inside = g.predict(images[g.splits["test"]]).ood_score
        found[method] = metrics.auroc(inside, g.predict(others).ood_score)
    assert found["ascood"] > found["plain"]


@pytest.mark.parametrize(("mode", "score"), [("shuffle", "energy"), ("gradient", "msp")])
def test_the_score_follows_the_mode(mode: str, score: str) -> None:
    request = TrainRequest(data=None, method="ascood", options={"mode": mode})
    assert asked_score(request, asked_method(request)).name == score
