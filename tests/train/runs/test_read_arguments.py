"""An argument of guard.train that no stage reads is refused before training; those that are read are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guard
from guard.errors import ConfigError
from guard.requests import TrainRequest
from tests.conftest import RECIPES, Arrays
from train.engine.checkpoint import NAME
from train.runs import train as run

TUNED = ("rejection", "mim", "energy_ft", "phase_mix", "recommended", "atol", "fodfom")
TUNED += ("kirby", "mlm", "dmr", "dmr_mlm", "dmr_kirby", "cmg_s", "cmg_e")
SHORT: dict[str, Any] = {"batch_size": 32, "device": "cpu"}


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(run, "train_stages", begun)


@pytest.fixture(scope="module")
def plain(trained: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = trained("plain").save_pretrained(tmp_path_factory.mktemp("run") / "plain")
    return folder


def asked(name: str, plain: Path) -> dict[str, Any]:
    return {**RECIPES[name], **SHORT, "init": plain, "tune_epochs": 2}


@pytest.mark.parametrize("argument", [{"epochs": 77}, {"lr": 9.9}], ids=["epochs", "lr"])
@pytest.mark.parametrize("name", TUNED)
def test_a_classifier_that_is_given_has_had_its_epochs(
    name: str, argument: dict[str, Any], plain: Path, four: Arrays
) -> None:
    with pytest.raises(AssertionError, match="training began"):
        guard.train(four, **asked(name, plain))
    ((told, value),) = argument.items()
    with pytest.raises(ConfigError, match=rf"does not read {told}={value}.*drop it.*tune_epochs, tune_lr"):
        guard.train(four, **asked(name, plain), **argument)


def test_what_the_outliers_or_the_teacher_take_from_it_is_read(plain: Path, four: Arrays) -> None:
    """An eighth of the epochs; and the teacher's, which are the student's."""
    for name in ("phase_mix", "oal"):
        del (options := asked(name, plain))["tune_epochs"]
        with pytest.raises(AssertionError, match="training began"):
            guard.train(four, **options, epochs=8)
    with pytest.raises(ConfigError, match="does not read epochs=8"):
        guard.train(four, **{**asked("oal", plain), "teacher": {"model": "wrn10_2", "epochs": 1}}, epochs=8)


@pytest.mark.parametrize(
    "argument",
    [
        {"weight_decay": 0.7},
        {"ema": 0.5},
        {"warmup_epochs": 5},
        {"backbone_lr": 0.5},
        {"validation": 0.2},
        {"augment": "crop"},
    ],
    ids=str,
)
def test_a_frozen_classifier_reads_nothing_of_a_classifiers_training(
    argument: dict[str, Any], plain: Path, four: Arrays
) -> None:
    (told,) = argument
    with pytest.raises(ConfigError, match=f"method 'rejection' with init= does not read {told}="):
        guard.train(four, **asked("rejection", plain), **argument)
    with pytest.raises(AssertionError, match="training began"):  # its own first stage reads it
        guard.train(four, **{**asked("rejection", plain), "init": None}, backbone="wrn10_2", **argument)


def test_what_is_so_anyway_may_be_said(plain: Path, four: Arrays) -> None:
    with pytest.raises(AssertionError, match="training began"):
        guard.train(four, **asked("rejection", plain), warmup_epochs=0, validation=0, augment="none")


def test_no_epoch_of_what_learns_from_outliers_is_chosen(four: Arrays) -> None:
    with pytest.raises(ConfigError, match=r"'oe' does not read validation=0.2: accuracy chooses the epoch of stages"):
        guard.train(four, method="oe", outliers="drawn", backbone="wrn10_2", validation=0.2, **SHORT)


def test_arguments_of_many_trainings_may_go_unread_in_one(plain: Path, four: Arrays) -> None:
    own = {name: value for name, value in asked("mim", plain).items() if name not in TrainRequest.model_fields}
    request = TrainRequest(data=four, method="mim", init=plain, epochs=7, lr=0.1, options=own, **SHORT)
    with pytest.raises(AssertionError, match="training began"):
        run.train(request, shared={"epochs", "lr"})
    with pytest.raises(ConfigError, match="does not read lr="):
        run.train(request, shared={"epochs"})


def test_a_run_that_was_begun_with_it_goes_on(plain: Path, four: Arrays, tmp_path: Path) -> None:
    """Earlier versions took it, and what is resumed has the arguments that it had."""
    (tmp_path / NAME).touch()
    with pytest.raises(AssertionError, match="training began"):
        guard.train(four, **asked("mim", plain), epochs=7, out=tmp_path, resume=True)
