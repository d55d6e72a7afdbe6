"""Teachers: what they learn, that they are kept, and which guards may teach whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Normalisation, Preprocess
from guard.scores import create_score
from tests import toy_diffusion  # noqa: F401  (registers diffusion="toy")
from tests.conftest import RECIPES, Arrays
from train import teacher
from train.classifiers.fresh import build_classifier
from train.engine.stage_run import StageRun
from train.outliers.base import PrepareContext
from train.runs.request import TrainConfig
from train.teacher import Teacher, TeacherOptions, TeacherSource

CPU = torch.device("cpu")


def student(classes: int = 4, side: int = 16) -> GuardModule:
    classifier = build_classifier("wrn10_2", "linear", classes, in_chans=3, image_size=side)
    return GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    return PrepareContext(student(), load((four[0][:160], four[1][:160])), tmp_path, 0, CPU)


def source(epochs: int = 2, **options: Any) -> TeacherSource:
    return TeacherSource(TeacherOptions(model="wrn10_2", **options), epochs, 32)


def states(made: Teacher) -> dict[str, torch.Tensor]:
    return made.module.state_dict()


def images(context: PrepareContext) -> torch.Tensor:
    assert context.data.array is not None
    return torch.from_numpy(context.data.array.copy())


def test_it_knows_the_images_it_was_trained_on_and_answers_without_gradients(context: PrepareContext) -> None:
    made = source(epochs=6)(context)
    outputs = made.outputs(images(context))
    assert outputs.logits.dtype == outputs.features.dtype == torch.float32
    assert outputs.features.shape == (160, made.width)
    assert (outputs.logits.argmax(-1).numpy() == context.data.labels).mean() > 0.9
    assert not outputs.logits.requires_grad
    assert not made.module.training
    assert not any(p.requires_grad for p in made.module.parameters())
    torch.manual_seed(1)  # a teacher has no state that answering moves
    assert made.outputs(images(context)).logits.equal(outputs.logits)


def test_it_is_made_once_and_loaded_from_its_folder(context: PrepareContext, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source()
    first = made(context)
    assert made(context) is first
    torch.manual_seed(99)
    monkeypatch.setattr(StageRun, "epoch", lambda *_: pytest.fail("trained again"))
    again = source()(context)
    assert all(value.equal(states(again)[key]) for key, value in states(first).items())
    assert again.identity == first.identity
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        source(lr=0.01)(context)  # another teacher, in a folder of its own


def test_a_killed_training_resumes(context: PrepareContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = source(epochs=3)(context)
    epoch = StageRun.epoch
    ran: list[int] = []

    def stopped(self: StageRun, number: int) -> dict[str, float]:
        if number == 1 and not ran.count(1):
            ran.append(1)
            raise KeyboardInterrupt
        ran.append(number)
        return epoch(self, number)

    monkeypatch.setattr(StageRun, "epoch", stopped)
    elsewhere = PrepareContext(context.module, context.data, tmp_path / "elsewhere", 0, CPU)
    with pytest.raises(KeyboardInterrupt):
        source(epochs=3)(elsewhere)
    torch.manual_seed(99)
    resumed = source(epochs=3)(elsewhere)
    assert ran == [0, 1, 1, 2]
    assert all(value.equal(states(resumed)[key]) for key, value in states(whole).items())


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((16, 16), "wrn40_2"), ((64, 48), "wrn40_2"), ((65, 65), "resnet34"), ((16, 65), "resnet34")],
)
def test_the_default_is_larger_than_the_student(
    sides: tuple[int, int], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(config: TrainConfig, *_: Any) -> GuardModule:
        assert (config.backbone, config.epochs, config.lr, config.augment) == (expected, 7, 0.1, "crop")
        assert config.image_size == max(sides)
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher, "fresh_teacher", seen)
    form = Preprocess(height=sides[0], width=sides[1], channels=3)
    data = load((np.zeros((4, *sides, 3), np.uint8), np.arange(4) % 2), preprocess=form)
    with pytest.raises(KeyboardInterrupt):
        TeacherSource(TeacherOptions(), 7, 2)(PrepareContext(student(2), data, tmp_path, 0, CPU))


def test_a_guard_can_teach(four: Arrays, tiny: dict[str, Any], tmp_path: Path, context: PrepareContext) -> None:
    g = guard.train(four, out=tmp_path / "run", **{**tiny, "epochs": 1, "score": "energy"})
    made = TeacherSource(TeacherOptions(model=str(tmp_path / "run")), 1, 32)(context)
    assert made.identity == g.manifest.weights_sha256 != ""
    probabilities = made.outputs(images(context)).logits.softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, g.predict(images(context).numpy()).probabilities, atol=0.02)  # bfloat16


def test_teachers_that_do_not_fit_are_refused(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path, context: PrepareContext
) -> None:
    small = four[0][:, ::2, ::2], four[1]
    guard.train(small, out=tmp_path / "small", **{**tiny, "epochs": 1, "score": "energy"})
    with pytest.raises(ConfigError, match="takes images of 8 x 8 x 3, these are 16 x 16 x 3; load them in its size"):
        TeacherSource(TeacherOptions(model=str(tmp_path / "small")), 1, 32)(context)
    two = context.data.subset(np.flatnonzero(np.asarray(context.data.labels) < 2))
    renamed = load((two.take(np.arange(20)), np.arange(20) % 2))
    other = PrepareContext(context.module, renamed, tmp_path, 0, CPU)
    with pytest.raises(ConfigError, match=r"knows the classes 0, 1, 2, 3, the images are of 0, 1; train one"):
        TeacherSource(TeacherOptions(model=str(tmp_path / "small")), 1, 32)(other)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("runs/none", "teacher='runs/none' is not a folder; give a run folder"),
        ("wrn11_2", "unknown backbone 'wrn11_2'; did you mean 'wrn1"),
    ],
)
def test_what_is_no_teacher_is_said_before_anything_is_trained(
    four: Arrays, tmp_path: Path, teacher: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        guard.train(four, method="oal", out=tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- before training


def never(*_: Any) -> Any:
    pytest.fail("something was trained")


@pytest.fixture
def folder_of_two(four: Arrays, tiny: dict[str, Any], tmp_path: Path) -> Path:
    two = four[1] < 2
    guard.train((four[0][two], four[1][two]), out=tmp_path / "two", **{**tiny, "epochs": 1})
    return tmp_path / "two"


def test_a_teacher_of_other_classes_is_refused_before_anything_is_trained(
    four: Arrays, tiny: dict[str, Any], folder_of_two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageRun, "epoch", never)
    with pytest.raises(ConfigError, match="knows the classes 0, 1, the images are of 0, 1, 2, 3"):
        guard.train(four, **{**tiny, **RECIPES["oal"], "teacher": str(folder_of_two)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "wrn10_2", "project": False}, r"project=False takes the teacher's 128 features for .* 16 numbers"),
        ({"teacher": {"model": "wrn10_2", "pretrained": True}}, "'wrn10_2' has no published weights"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(
    options: dict[str, Any],
    message: str,
    four: Arrays,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StageRun, "epoch", never)
    asked = {**tiny, **RECIPES["oal"], "diffusion": {"width": 8, "epochs": 1}, **options}
    with pytest.raises(ConfigError, match=message):
        guard.train(four, **asked)


def test_a_network_that_takes_no_images_of_this_size_is_named(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence is ours, whatever the network raises."""

    def fails(*_: Any) -> Any:
        raise AssertionError("Input height (48) doesn't match model (32).")

    monkeypatch.setattr(GuardModule, "outputs", fails)
    with pytest.raises(ConfigError, match=r"teacher='wrn10_2' takes no images of 16 x 16 pixels \(Input height"):
        source().check(context)


def test_checking_changes_no_random_numbers(context: PrepareContext) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert source().check(context) == 128
    assert torch.rand(1).equal(expected)


# ------------------------------------------------------------------------------------------------- its own size


@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
def test_a_vision_transformer_sees_images_of_the_size_it_was_published_for(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vit_tiny_patch16_224 has 14 x 14 patches, and not the one or two that 16 pixels would leave."""
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    data = load((images, np.arange(4) % 2))
    made = TeacherSource(TeacherOptions(model="vit_tiny_patch16_224", augment="none", epochs=1), 1, 2)
    small = PrepareContext(student(2), data, tmp_path, 0, CPU)
    assert made.check(small) == 192
    taught = made(small)
    seen: list[torch.Size] = []
    patches = taught.module.classifier.backbone.backbone.model.patch_embed  # type: ignore[union-attr]
    patches.register_forward_hook(lambda _, given, out: seen.append((given[0].shape, out.shape)))  # type: ignore[operator,arg-type,func-returns-value]
    outputs = taught.outputs(torch.from_numpy(images))
    assert seen == [((4, 3, 224, 224), (4, 196, 192))]  # type: ignore[comparison-overlap]
    assert outputs.features.shape == (4, 192)
    with torch.no_grad():
        grown = torch.nn.functional.interpolate(
            taught.module.normalise(torch.from_numpy(images)), (224, 224), mode="bilinear", antialias=True
        )
        direct = taught.module.classifier.backbone.backbone(grown)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(outputs.features, direct, atol=0.05, rtol=0.05)  # one in mixed precision


def test_convolutions_see_images_as_they_are_unless_told_a_size(context: PrepareContext) -> None:
    assert source()._side(context.data.preprocess) is None
    assert source(image_size=16)._side(context.data.preprocess) is None
    larger = source(image_size=32)
    assert larger._side(context.data.preprocess) == 32
    assert larger(context).identity != source()(context).identity


def test_its_options_are_a_record_of_their_own(four: Arrays, tmp_path: Path) -> None:
    assert TeacherOptions.model_validate("wrn16_2") == TeacherOptions(model="wrn16_2")
    with pytest.raises(
        ConfigError, match=r"option 'teacher_lr' is now teacher=\{'lr': \.\.\.\} \(--set teacher.lr=...\)"
    ):
        guard.train(four, method="oal", teacher_lr=0.1)
    with pytest.raises(ConfigError, match=r"did you mean 'epochs'"):
        guard.train(four, method="oal", teacher={"epoch": 3})
    with pytest.raises(ConfigError, match=r"the guard in .* is trained already; omit epochs, lr"):
        guard.train(four, method="oal", teacher={"model": str(tmp_path), "epochs": 3, "lr": 0.1})
