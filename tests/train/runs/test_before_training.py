"""What can be refused is refused before the first epoch; nothing is tried after hours of work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import GuardError
from tests.conftest import Arrays
from train.engine.stage_run import StageRun
from train.generators.latent_pair import register_pair
from train.runs import train as run

SHORT: dict[str, Any] = {"backbone": "wrn10_2", "epochs": 1, "batch_size": 32, "device": "cpu", "augment": "none"}


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(run, "train_stages", begun)


@pytest.fixture
def small(four: Arrays) -> Arrays:
    return four[0][:160], four[1][:160]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score": "vim", "score_options": {"dim": 5000}}, r"dim must be below the 128 features, got 5000"),
        ({"score": "vim", "score_options": {"dim": 100}}, r"needs more training images than that, got 80"),
        ({"score": "nnguide"}, r"k=100 needs as many training images, got 80; lower k"),
        ({"score": "knn", "score_options": {"k": 81}}, r"k=81 needs as many training images, got 80"),
        ({"score": "energy+knn", "score_options": {"part_options": {"knn": {"k": 81}}}}, r"k=81 needs as many"),
        ({"score": "gram", "score_options": {"layers": ("nope",)}}, "unknown layer 'nope'"),
        ({"alpha": 0.001}, "alpha=0.001 needs at least 999 calibration images"),
        ({"ood_val": "/nothing"}, "no such file or folder '/nothing'"),
        ({"ood_val": {"far": "/nothing"}}, "no such file or folder '/nothing'"),
        ({"method": "oe", "outliers": "/nothing"}, "no such file or folder '/nothing'"),
        ({"calibration": "/nothing"}, "no such file or folder '/nothing'"),
        ({"test": "/nothing"}, "no such file or folder '/nothing'"),
        ({"init": "/nothing"}, "no such folder: /nothing"),
        ({"out": "/proc/x/y"}, "cannot be written to"),
        ({"out": "a\0b"}, "NUL character"),
    ],
)  # fmt: skip
def test_it_is_refused_before_training(
    options: dict[str, Any], sentence: str, small: Arrays, no_training: None
) -> None:
    with pytest.raises(GuardError, match=sentence):
        guard.train(small, **{**SHORT, **options})


class WithoutSample:
    """A pair that encodes and decodes, and draws nothing."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 1, 4)

    def generate(self, w: torch.Tensor) -> torch.Tensor:
        raise AssertionError("an outlier was made")


TOKENS: dict[str, Any] = {"backbone": "test_vit", "image_size": 160}  # its logits are of the class token alone


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "kirby", **TOKENS}, "this transformer's logits come from its class token alone"),
        ({"method": "dmr_kirby", "pair": {"model": "mute"}, **TOKENS}, "this transformer's logits come from its class"),
        ({"method": "fodfom", "kinds": "blurred", **TOKENS}, "this transformer's logits come from its class token"),
        ({"method": "rejection", "outliers": "blurred_object", **TOKENS}, "this transformer's logits come from its"),
        ({"method": "atol", "gan": {"latent": 1}}, "gan.latent=1 is too small to tell 4 classes apart"),
        ({"method": "dmr", "variant": "code", "pair": {"model": "mute"}}, r"'mute' has no sample\(labels, generator"),
        ({"method": "mlm", "pair": {"model": "empty"}}, "pair 'empty' must have encode"),
    ],
)  # fmt: skip
def test_what_makes_the_outliers_is_checked_before_a_classifier_is_trained(
    options: dict[str, Any], sentence: str, small: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_pair("mute", lambda *_: WithoutSample())
    register_pair("empty", lambda *_: object())  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(StageRun, "epoch", lambda *_: pytest.fail("training began"))
    with pytest.raises(GuardError, match=sentence):
        guard.train(small, **{**SHORT, **options})


@pytest.mark.parametrize(
    "score",
    ["energy", "knn", "vim", "mahalanobis", "she", "kl_matching", "react", "dice", "ash", "energy+vim", "odin", "gram"],
)
def test_what_can_be_fitted_reaches_training(score: str, small: Arrays, no_training: None) -> None:
    with pytest.raises(AssertionError, match="training began"):
        guard.train(small, **SHORT, score=score)


def test_a_disk_without_room(small: Arrays, no_training: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 10**6})
    monkeypatch.setattr("guard.artefact.places.shutil.disk_usage", lambda _: usage)
    with pytest.raises(GuardError, match=r"has 1 MB free, and checkpoints and guard need about \d+ MB"):
        guard.train(small, **SHORT, out=tmp_path / "run")


def test_the_rehearsal_leaves_no_trace(small: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    first = guard.train(small, **SHORT, score="vim")
    monkeypatch.setattr(run, "rehearse", lambda *_: None)
    second = guard.train(small, **SHORT, score="vim")
    weights = second.module.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.module.state_dict().items())


def test_fit_refuses_before_it_reads_all_images(small: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("fitting began")

    monkeypatch.setattr("train.runs.fit.fit_score", begun)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8), torch.nn.Linear(8, 4))
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 16, "device": "cpu"}
    with pytest.raises(GuardError, match=r"k=200 needs as many training images, got 80"):
        guard.fit(model, small, score="knn", score_options={"k": 200}, **options)


def test_a_run_folder_of_any_name_is_written(small: Arrays, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"run\xff\n")
    guard.train(small, **SHORT, out=out, ood_val={"\udcff": np.zeros((3, 16, 16, 3), np.uint8)})
    assert guard.Guard.from_pretrained(out).manifest.name == "run\\udcff\\n"


@pytest.mark.parametrize("path", ["/proc/x/guard.onnx", "a\0b.onnx"])
def test_an_export_is_refused_before_it_is_made(path: str, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.to_onnx.onnx_bytes", lambda *_: pytest.fail("the export began"))
    with pytest.raises(GuardError, match=r"the exported file=.* cannot be written|NUL character"):
        guard.export(trained("plain"), path)


@pytest.mark.parametrize("out", ["/proc/x/report.html", "a\0b.html"])
def test_a_report_is_refused_before_it_is_measured(out: str, trained: Any, four: Arrays) -> None:
    with pytest.raises(GuardError, match=r"out=.* cannot be written|out: has a NUL character"):
        guard.evaluate(trained("plain"), id=four, out=out)
    with pytest.raises(GuardError, match=r"out=.* cannot be written|out: has a NUL character"):
        guard.calibrate(trained("plain"), four, out=out.replace(".html", ""))
