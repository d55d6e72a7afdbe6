"""The class-suppressed residual, its regression and its loss."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.manifest import Normalisation
from guard.scores import create_score
from tests.published import ARCHITECTURE, FOLDER
from tests.references import residual as reference
from train.backbones import create_backbone, pretrained_normalisation
from train.cache.keyed import kept_path
from train.classifiers.fresh import build_classifier
from train.frozen_teacher import PIECE, FrozenTeacher, _Kept, pooled_features
from train.losses.base import Batch
from train.losses.class_residual import RIDGE, class_residual, ridge_r2
from train.losses.residual_distillation import ResidualDistillation
from train.outliers.base import PrepareContext

CLASSES = 3


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    """An untrained network of three classes, and 30 random images of 16 x 16."""
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", CLASSES, in_chans=3, image_size=16)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    return PrepareContext(module, load((images, np.arange(30) % CLASSES)), tmp_path, 0, torch.device("cpu"))


def drawn(count: int = 60, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a mean per class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    means = 3 * torch.randn(CLASSES, width, generator=generator)
    return means[labels] + torch.randn(count, width, generator=generator) + 5, labels


def test_it_is_the_drafts_formula_and_holds_nothing_of_the_means() -> None:
    features, labels = drawn()
    ours = class_residual(features, labels)
    theirs = reference.class_residual(features.double().numpy(), labels.numpy(), eps=1e-6)
    assert np.abs(ours.numpy() - theirs).max() < 1e-4
    centred = features - features.mean(0)
    means = torch.stack([centred[labels == c].mean(0) for c in range(CLASSES)])
    assert (ours @ means.T).abs().max() < 1e-3
    assert ours.abs().max() > 0.5


def test_two_classes_and_equal_features_are_no_exception() -> None:
    features, _ = drawn()
    assert torch.isfinite(class_residual(features, torch.arange(60) % 2)).all()
    same = torch.ones(6, 4)
    assert class_residual(same, torch.arange(6) % 2).abs().max() == 0


def test_r2_is_that_of_scikit_learns_ridge() -> None:
    generator = torch.Generator().manual_seed(2)
    x, noise = torch.randn(80, 5, generator=generator), torch.randn(80, 3, generator=generator)
    y = x @ torch.randn(5, 3, generator=generator) + noise
    inside = x[::2].double().numpy()
    penalty = RIDGE * np.diag(inside.T @ inside).mean()
    fitted = Ridge(alpha=penalty).fit(x[::2].double().numpy(), y[::2].double().numpy())
    told, true = fitted.predict(x[1::2].double().numpy()), y[1::2].double().numpy()
    expected = 1 - ((true - told) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    assert ridge_r2(x, y) == pytest.approx(expected, abs=1e-9)
    assert ridge_r2(x, torch.randn(80, 3, generator=generator)) < 0.2


@pytest.mark.parametrize("objective", ["squared", "cosine"])
def test_the_loss_is_the_formula_of_the_rows_of_the_batch(objective: str, context: PrepareContext) -> None:
    loss = ResidualDistillation(FrozenTeacher("start", has_start=True), 2.0, objective)
    loss.prepare(context)
    labels = torch.arange(30) % CLASSES
    teacher = FrozenTeacher("start", has_start=True).features(context)
    residuals = class_residual(teacher, labels)
    rows = torch.tensor([7, 2, 19])
    features = torch.randn(3, context.module.classifier.num_features)
    batch = Batch(Outputs(features, torch.zeros(3, CLASSES), None), labels[rows], _none(), rows=rows)
    assert loss.project is not None
    told = loss.project(features)
    if objective == "cosine":
        expected = 1 - F.cosine_similarity(told, residuals[rows]).mean()
    else:
        size = residuals.square().sum(1).mean()
        expected = (told - residuals[rows] / size.sqrt()).square().sum(1).mean()
    assert loss.loss(batch)["residual"].item() == pytest.approx(2 * expected.item(), rel=2e-3)  # kept in float16


@pytest.mark.parametrize("hidden", [0, 4])
def test_g_is_at_first_the_regression_of_the_residual(hidden: int, context: PrepareContext) -> None:
    loss = ResidualDistillation(FrozenTeacher("start", has_start=True), hidden=hidden)
    loss.prepare(context)
    features = FrozenTeacher("start", has_start=True).features(context)
    rows = torch.arange(30)
    batch = Batch(Outputs(features, torch.zeros(30, CLASSES), None), rows % CLASSES, _none(), rows=rows)
    assert loss.loss(batch)["residual"].item() < 0.05  # 1 is saying nothing


def _none() -> Outputs:
    return Outputs(torch.zeros(0, 4), torch.zeros(0, CLASSES), None)


def trained_on(context: PrepareContext) -> None:
    """The network is another from now on."""
    with torch.no_grad():
        for parameter in context.module.parameters():
            parameter.mul_(1.5)


def checked(context: PrepareContext) -> FrozenTeacher:
    """The teacher of a training that begins, or is about to resume."""
    teacher = FrozenTeacher("start", has_start=True)
    teacher.check(context)
    return teacher


def test_the_start_is_kept_as_it_was_when_training_resumes(context: PrepareContext) -> None:
    before, resumed = checked(context).features(context), checked(context)
    trained_on(context)
    assert torch.equal(resumed.features(replace(context, resumed=True)), before)


def test_a_training_that_begins_anew_in_the_folder_is_taught_by_its_own_start(context: PrepareContext) -> None:
    before = checked(context).features(context)
    trained_on(context)
    after = checked(context).features(context)
    assert not torch.equal(after, before)
    assert torch.equal(after, pooled_features(context.module, context.data))


def test_a_resumed_training_with_another_start_is_refused(context: PrepareContext) -> None:
    checked(context).features(context)
    trained_on(context)
    with pytest.raises(ConfigError, match="the stopped one started from another; put that one back"):
        checked(context).features(replace(context, resumed=True))


def test_a_run_of_an_earlier_version_finds_the_features_it_kept(context: PrepareContext) -> None:
    """They lay under the word, whatever network it stood for."""
    before = checked(context).features(context)
    (made,) = context.folder.glob("teacher-features-*")
    made.rename(kept_path(context, "teacher-features", _Kept(teacher="start")).with_suffix(""))
    resumed = checked(context)
    trained_on(context)
    assert torch.equal(resumed.features(replace(context, resumed=True)), before)


def test_a_published_network_is_timms_own(context: PrepareContext) -> None:
    features = FrozenTeacher(str(FOLDER), has_start=False).features(context)
    backbone = create_backbone(ARCHITECTURE, image_size=16, pretrained=str(FOLDER)).eval()
    normalisation = pretrained_normalisation(backbone, 3)
    assert normalisation is not None
    pixels = torch.from_numpy(np.array(context.data.array)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (normalisation.mean, normalisation.std))
    with torch.inference_mode():
        expected = backbone.pool(backbone.forward_map((pixels - mean) / std))
    assert torch.nn.functional.cosine_similarity(features, expected).min() > 0.999  # computed in bf16 where it can be
    assert len(features) == 30 < PIECE


def test_what_cannot_teach_is_refused_before_training(context: PrepareContext, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starts from random weights; give pretrained= or init="):
        FrozenTeacher("start", has_start=False).check(context)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="does not say which network it is of; give timm's folder"):
        FrozenTeacher(str(file), has_start=False).check(context)


def test_a_guard_of_other_images_is_refused_before_training(context: PrepareContext, tmp_path: Path) -> None:
    import guard

    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)
    short = {"backbone": "wrn10_2", "epochs": 1, "score": "energy", "device": "cpu", "alpha": 0.2}
    guard.train((images, np.arange(60) % 2), in_chans=1, out=tmp_path / "grey", **short)
    with pytest.raises(ConfigError, match=r"grey' takes no images of 16 x 16 x 3 .*name another teacher"):
        FrozenTeacher(str(tmp_path / "grey"), has_start=False).check(context)


def test_a_teacher_of_whom_the_network_knows_nothing_is_named(
    context: PrepareContext, caplog: pytest.LogCaptureFixture
) -> None:
    loss = ResidualDistillation(FrozenTeacher(str(FOLDER), has_start=False))
    with caplog.at_level(logging.INFO, "ood_guard"):
        loss.prepare(context)
    assert "R^2" in caplog.text
