"""What a newcomer gets wrong meets one clear sentence: no page of torch, no second error, nothing trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import guard
from guard.cli.runs import new_run_folder, removed_if_unused
from guard.errors import GuardError
from tests.conftest import Arrays
from tests.train.models import Answering, Unfound, sequential

CPU = {"device": "cpu"}
FIT = {**CPU, "mean": (0.5,) * 3, "std": (0.2,) * 3}


class World:
    """What the mistakes are made with."""

    def __init__(self, four: Arrays, folder: Path, trained: Any, exported: Path) -> None:
        self.four, self.folder, self.trained, self.exported = four, folder, trained, exported

    def classes(self, **counts: int) -> Path:
        """A folder with this many images per class."""
        for name, count in counts.items():
            path = self.folder / "classes" / name
            path.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(self.four[0][i]).save(path / f"{i}.png")
        return self.folder / "classes"

    def text_among_images(self) -> Path:
        path = self.classes(cat=40, dog=40)
        for i in range(3):
            (path / "cat" / f"notes{i}.jpg").write_text("not an image, 40 KB of prose")
        return path

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name


@pytest.fixture
def world(four: Arrays, tmp_path: Path, trained: Callable[[str], Any], exported: Callable[[str], Path]) -> World:
    return World(four, tmp_path, trained("plain"), exported("plain"))


def softmaxed() -> nn.Module:
    return Answering(lambda logits: logits.softmax(-1))


Mistake = Callable[[World], object]
T, F = guard.train, guard.fit

MISTAKES: dict[str, tuple[Mistake, str]] = {
    # ------------------------------------------------------------------------------------------------------- data
    "missing folder": (lambda w: T(w.folder / "phtos", **CPU), r"phtos"),
    "misspelt digits": (lambda w: T("digits:0-99", **CPU), r"unknown digits 'digits:0-99'; accepted: 'digits'"),
    "empty class": (lambda w: T(w.classes(cat=40, dog=0), **CPU), r"dog holds no images; add images .* or remove it"),
    "one class": (lambda w: T(w.classes(cat=40), **CPU), r"1 class \(cat\).* at least two"),
    "empty folder": (lambda w: T(w.folder, **CPU), r"no |holds"),
    "text file as image": (lambda w: T(w.text_among_images(), **CPU), r"3 of 83 images .*cannot be read.*notes0\.jpg"),
    "one text file as data": (lambda w: T(w.file("a.txt", b"hello"), **CPU), r"has no image column; its columns are"),
    "floats": (lambda w: T((w.four[0] / 255, w.four[1]), **CPU), r"must be uint8 .* got float64; .*astype\('uint8'\)"),
    "channels first": (lambda w: T((w.four[0].transpose(0, 3, 1, 2), w.four[1]), **CPU), r"transpose\(0, 2, 3, 1\)"),
    "images without labels": (lambda w: T(w.four[0], **CPU), r"labelled images are needed.* \(images, labels\)"),
    "too few labels": (lambda w: T((w.four[0], w.four[1][:-1]), **CPU), r"400 images but labels of shape \(399,\)"),
    "too few to calibrate": (
        lambda w: T((w.four[0][:40], w.four[1][:40]), **CPU),
        r"alpha=0\.05 needs at least 19",
    ),
    "calibrating on everything": (lambda w: T(w.four, calibration=400, **CPU), r"cannot be held out of 400 images"),
    # ------------------------------------------------------------------------------------------------------ names
    "unknown method": (lambda w: T(w.four, method="vso", **CPU), r"unknown method 'vso'; did you mean 'vos'\?"),
    "unknown score": (lambda w: T(w.four, score="enrgy", **CPU), r"unknown score 'enrgy'; did you mean 'energy'"),
    "unknown head": (lambda w: T(w.four, head="cos", **CPU), r"unknown head 'cos'; did you mean 'cosine'"),
    "unknown backbone": (lambda w: T(w.four, backbone="wrn16-2", **CPU), r"unknown backbone 'wrn16-2'; .*'wrn16_2'"),
    "unknown timm name": (
        lambda w: F("resnet_18", w.four, **CPU),
        r"backbone 'resnet_18'; did you mean .*resnet",
    ),
    "own backbone to fit": (lambda w: F("wrn16_2", w.four, **CPU), r"backbone without trained weights; train it"),
    "pretrained small net": (lambda w: T(w.four, pretrained=True, backbone="wrn16_2", **CPU), r"no published weights"),
    "unknown device": (lambda w: T(w.four, device="gpu"), r"device must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    # ---------------------------------------------------------------------------------------------------- options
    "misspelt option": (lambda w: T(w.four, method="vos", wieght=1, **CPU), r"'wieght'; did you mean 'weight'"),
    "option of another method": (lambda w: T(w.four, k=3, **CPU), r"method 'plain' has no option 'k'"),
    "wrong option": (lambda w: T(w.four, method="vos", start=2, **CPU), r"option start: .*less than 1, got 2"),
    "no epochs": (lambda w: T(w.four, epochs=0, **CPU), r"guard\.train option epochs: .*at least|epochs: .* 1, got 0"),
    "no learning rate": (lambda w: T(w.four, lr=0, **CPU), r"option lr: .*greater than 0, got 0"),
    "batch of one": (lambda w: T(w.four, batch_size=1, **CPU), r"option batch_size: .* 2, got 1"),
    "negative seed": (lambda w: T(w.four, seed=-1, **CPU), r"seed must be an integer from 0 .*, got -1"),
    "half a seed": (lambda w: F(sequential(), w.four, seed=0.5, **FIT), r"seed must be an integer from 0 .*, got 0\.5"),
    "two channels": (lambda w: T(w.four, in_chans=2, **CPU), r"in_chans must be 3 .* or 1 .*, got 2"),
    "no pixels": (lambda w: T(w.four, image_size=0, **CPU), r"image_size: .*1\.\.8192 pixels, got 0"),
    "tiny pixels": (lambda w: T(w.four, image_size=2, **CPU), r"image_size: .* 4, got 2"),
    "decay above one": (lambda w: T(w.four, ema=1.5, **CPU), r"option ema: .*less than 1, got 1\.5"),
    "unknown augmentation": (
        lambda w: T(w.four, augment="cutot", **CPU),
        r"unknown augmentation 'cutot'; did you mean 'cutout'",
    ),
    "alpha of zero": (lambda w: T(w.four, alpha=0, **CPU), r"alpha must be between 0 and 1 .*, got 0"),
    "alpha in percent": (lambda w: F(sequential(), w.four, alpha=5, **FIT), r"alpha must be .* 5 % is 0\.05\), got 5"),
    "alpha too small": (lambda w: T(w.four, alpha=0.001, **CPU), r"alpha=0\.001 needs at least 999 calibration images"),
    "resume without folder": (lambda w: T(w.four, resume=True, **CPU), r"resume=True needs the run's folder: out="),
    "out is a file": (lambda w: T(w.four, out=w.file("runs", b""), **CPU), r"out='.*runs' is a file; give a folder"),
    "no outliers for oe": (lambda w: T(w.four, method="oe", **CPU), r"learns from outlier images: give outliers="),
    "outliers for vos": (lambda w: T(w.four, method="vos", outliers=w.four[0], **CPU), r"makes its own outliers"),
    "missing outliers": (lambda w: T(w.four, method="oe", outliers="patch_shufle", **CPU), r"patch_shufle"),
    "missing ood_val": (lambda w: T(w.four, ood_val={"a": w.folder / "gone"}, **CPU), r"gone"),
    "init from nowhere": (lambda w: T(w.four, init=w.folder / "gone", **CPU), r"gone"),
    "score of another method": (
        lambda w: T(w.four, score="rejection", **CPU),
        r"learned by method 'rejection', not",
    ),
    # ----------------------------------------------------------------------------------------------------- models
    "trained score to fit": (
        lambda w: F(sequential(), w.four, score="energy_logistic", **FIT),
        r"learned in training; use",
    ),
    "no model": (lambda w: F(None, w.four, **FIT), r"must be a torch\.nn\.Module, .* got NoneType"),
    "weights alone": (lambda w: F(sequential().state_dict(), w.four, **FIT), r"got OrderedDict"),
    "no linear head": (
        lambda w: F(Unfound(), w.four, score="knn", **FIT),
        r"has no linear layer on the way .*features=",
    ),
    "softmax at the end": (lambda w: F(softmaxed(), w.four, **FIT), r"returns probabilities .*must return logits"),
    "softmax, layer named": (lambda w: F(softmaxed(), w.four, features="network.4", **FIT), r"returns probabilities"),
    "something after": (
        lambda w: F(Answering(lambda f: f * 2), w.four, score="knn", **FIT),
        r"'network\.5', does not give",
    ),
    "a tuple": (lambda w: F(Answering(lambda f: (f, f)), w.four, **FIT), r"must return logits \(N, C\), got tuple"),
    "a map": (lambda w: F(nn.Conv2d(3, 4, 3), w.four, **FIT), r"must return logits \(N, C\), got \(8, 4, 14, 14\)"),
    "unknown layer": (lambda w: F(sequential(), w.four, features="fc", **FIT), r"unknown layer 'fc'.* Accepted: 0, 1"),
    "layer that is not run": (
        lambda w: F(nn.ModuleDict({"a": nn.Identity()}), w.four, **FIT),
        r"the model cannot take a batch of shape \(8, 3, 16, 16\)",
    ),
    "wrong size": (lambda w: F(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), w.four, **FIT), r"image_size=224"),
    "other classes": (lambda w: F(sequential(classes=5), w.four, **FIT), r"answers 5 classes, the data has 4"),
    "too few class names": (lambda w: F(sequential(), w.four, class_names=["a"], **FIT), r"has 1 names .* 4 classes"),
    "mean of no pixels": (
        lambda w: F(sequential(), w.four, **{**FIT, "mean": 999}),
        r"units of 0\.\.1 or 0\.\.255 .*999",
    ),
    "std of zero": (lambda w: F(sequential(), w.four, **{**FIT, "std": (0, 1, 1)}), r"std must be above 0, got"),
    "one mean too few": (
        lambda w: F(sequential(), w.four, **{**FIT, "mean": (0, 1)}),
        r"mean must be one number or 3, .*got \(0, 1\)",
    ),
    "k above the images": (
        lambda w: F(sequential(), w.four, score="knn", score_options={"k": 300}, **FIT),
        r"k=300 needs as many",
    ),
    "pixels of a model": (
        lambda w: F(sequential(), w.four, image_size=0, **FIT),
        r"image_size: .*1\.\.8192 pixels, got 0",
    ),
    # -------------------------------------------------------------------------------------------------- the guard
    "missing guard": (lambda w: guard.load(w.folder / "guard.onx"), r"no such guard: .*guard\.onx; accepted: a \.onnx"),
    "not a guard": (lambda w: guard.load(w.file("guard.txt", b"hi")), r"guard\.txt is not a guard: accepted are"),
    "damaged guard": (lambda w: guard.load(w.file("g.onnx", w.exported.read_bytes()[:-9])), r"g\.onnx"),
    "empty run folder": (
        lambda w: guard.load(w.folder),
        r"is not a run folder: it has no guard\.json \(found: noth",
    ),
    "engine on the cpu": (lambda w: guard.load(w.file("g.engine", b"x"), device="cpu"), r"runs on CUDA only"),
    "unknown load device": (lambda w: guard.load(w.exported, device="tpu"), r"device must be .*, got 'tpu'"),
    "text for an image": (lambda w: w.trained.predict([w.four[0][0], w.file("a.jpg", b"x")]), r"image 1: .*a\.jpg"),
    "image that is missing": (lambda w: w.trained.predict("gone.png"), r"no such image: gone\.png"),
    "float image": (lambda w: w.trained.predict(w.four[0][0] / 255.0), r"image 0: .*uint8.*float64"),
    "tensor image": (lambda w: w.trained.predict([torch.zeros(3, 16, 16)]), r"must be uint8 .*got a float32 tensor"),
    "no batch": (lambda w: w.trained.predict(w.four[0][0], batch_size=0), r"batch_size must be at least 1, got 0"),
    "threshold not a number": (lambda w: w.trained.predict(w.four[0][0], threshold=float("nan")), r"threshold .* NaN"),
    "threshold of words": (lambda w: w.trained.predict(w.four[0][0], threshold="high"), r"threshold .*'high'"),
    "five dimensions": (lambda w: w.trained.predict(np.zeros((1, 2, 3, 4, 5), np.uint8)), r"got \(1, 2, 3, 4, 5\)"),
    "calibrate on too few": (lambda w: w.trained.calibrate(w.four[0][:5]), r"alpha=0\.05 .*5|5 .*alpha"),
    "export to a picture": (lambda w: guard.export(w.trained, w.folder / "g.png"), r"must end in \.onnx or \.engine"),
    "export a missing run": (lambda w: guard.export(w.folder / "gone", w.folder / "g.onnx"), r"no such guard: .*gone"),
    "save as onnx": (lambda w: w.trained.save(w.folder / "g.onnx"), r"cannot be saved as g\.onnx; use guard\.export"),
    "verify on nothing": (lambda w: guard.verify(w.exported, against=w.trained, data=w.folder / "x"), r"x"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_one_sentence(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake, sentence = MISTAKES[name]
    monkeypatch.setattr(
        "train.runs.train.train_stages", lambda *_, **__: pytest.fail("it trained before it complained")
    )
    with pytest.raises(GuardError, match=sentence) as caught:
        mistake(world)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"head": "lin"}, "unknown head 'lin'; did you mean 'linear'"),
        ({"backbone": "resnet1"}, "unknown backbone 'resnet1'"),
        ({"method": "oe"}, "learns from outlier images"),
        ({"epochs": 0}, "option epochs"),
        ({"epoch": 2}, "has no option 'epoch'; did you mean 'epochs'"),
        ({"alpha": 2.0}, "alpha must be between 0 and 1"),
    ],
)
def test_what_needs_no_image_is_refused_before_any_is_decoded(
    arguments: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.runs.train.load", lambda *_, **__: pytest.fail("it decoded before it complained"))
    with pytest.raises(GuardError, match=sentence):
        guard.train("digits", **arguments)


def test_the_folder_of_the_images_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="is the folder of the images; choose another"):
        guard.train(str(tmp_path), out=tmp_path)


@pytest.mark.parametrize("out", ["run", "runs/a"])
def test_a_run_folder_among_the_classes_is_refused_and_not_made(out: str, tmp_path: Path) -> None:
    """It would be a class without images, in this run and in every later one."""
    (tmp_path / "cat").mkdir()
    with pytest.raises(GuardError, match="lies in the folder of the images, where it would be taken for a class"):
        guard.train(str(tmp_path), out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["cat"]
    with pytest.raises(GuardError, match=r"class folder .*cat holds no images"):
        guard.train(str(tmp_path), out=tmp_path / ".runs" / "a")


def test_a_new_run_folder_is_one_commands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the same second get two; one that failed leaves nothing, not even runs/, which would be a class."""
    monkeypatch.chdir(tmp_path)
    first, second = new_run_folder("vos"), new_run_folder("vos")
    assert first != second
    assert first.is_dir()
    assert second.is_dir()
    for folder in (first, second):
        with pytest.raises(KeyboardInterrupt), removed_if_unused(folder):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
