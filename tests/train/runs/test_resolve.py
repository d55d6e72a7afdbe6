"""What `guard.train` was asked for, with every default found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import guard
from guard.data import load
from guard.data.held_out import Draw, Splits
from guard.errors import ConfigError
from guard.requests import TrainRequest
from guard.scores import create_score
from tests.composition import stages_of
from tests.conftest import Arrays
from train.losses.rejection_bce import RejectionLoss
from train.methods.phase_mix import PhaseMixTuning
from train.runs.request import TrainConfig
from train.runs.resolve import asked_head, asked_method, asked_score, check_before_loading, resolved, score_for


def config(data: Any, **asked: Any) -> TrainConfig:
    request = TrainRequest(data=data, **asked)
    method = asked_method(request)
    score = asked_score(request, method)
    check_before_loading(request, method, score)
    splits = Splits.draw(load(data), Draw(0, 20, 20), alpha=request.alpha)
    return resolved(request, method, score, splits, None)


def blank(side: int, count: int = 60) -> Arrays:
    images = np.zeros((count, side, side, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256  # no copies
    return images, np.arange(count) % 2


def test_every_default_is_found(four: Arrays) -> None:
    found = config(four, method="vos", options={"queue": 30}, init="runs/a")
    assert (found.method, found.head, found.score) == ("vos", "linear", "energy")
    assert (found.backbone, found.batch_size, found.augment, found.image_size) == ("wrn16_2", 32, "crop+flip", 16)
    assert found.options["queue"] == 30
    assert found.options["weight"] == 0.1
    assert (found.calibration, found.test, found.init) == (20, 20, "runs/a")
    assert found.data_fingerprint == load(four).fingerprint


def test_what_was_asked_for_stays(four: Arrays) -> None:
    asked = {"epochs": 7, "batch_size": 11, "lr": 0.3, "augment": "none", "backbone": "resnet18", "ema": 0.5}
    found = config(four, **asked)
    assert {name: getattr(found, name) for name in asked} == asked


def test_digits_have_a_handedness() -> None:
    assert config("digits").augment == "crop"


def test_large_images_have_another_backbone() -> None:
    assert [config(blank(side), batch_size=2).backbone for side in (64, 65)] == ["wrn16_2", "resnet18"]


def test_images_must_be_images() -> None:
    assert config(blank(4)).image_size == 4
    with pytest.raises(ConfigError, match="option image_size: the side must be at least 4, got 3"):
        config(blank(3))


def test_a_score_brings_its_head() -> None:
    request = TrainRequest(data=None, score="cosine")
    method = asked_method(request)
    assert asked_head(request, method, asked_score(request, method)) == "cosine"
    other = TrainRequest(data=None, score="reject_class", head="linear")
    with pytest.raises(ConfigError, match="reads the extra class of head='c_plus_1'"):
        asked_head(other, method, asked_score(other, method))


class OfParts(PhaseMixTuning):
    """A method that gives its score's parts options."""

    def score_options(self) -> dict[str, Any]:
        given = {"knn": {"max_bank": 5000, "k": 5}, "mahalanobis": {"normalise": 1.0}}
        return {"parts": ("energy", "knn", "mahalanobis"), "part_options": given}


def test_an_option_of_one_part_leaves_the_methods_others() -> None:
    method = OfParts(OfParts.Options())
    score = score_for(method, None, {"part_options": {"knn": {"k": 10}, "energy": {}}})
    of = {part.name: part.options for part in score.parts()}
    assert (of["knn"].k, of["knn"].max_bank, of["mahalanobis"].normalise) == (10, 5000, 1.0)
    assert [part.name for part in score_for(method, None, {"parts": ("energy", "knn")}).parts()] == ["energy", "knn"]
    assert score_for(method, None, {"mirror": True}).options.part_options["knn"]["max_bank"] == 5000


@pytest.mark.parametrize(("name", "asked", "other"), [("hidden", 24, 48), ("tap", "pooled", "map")])
@pytest.mark.parametrize("method", ["rejection", "dmr", "kirby", "mlm"])
def test_the_rejection_network_is_the_one_that_the_score_says(method: str, name: str, asked: Any, other: Any) -> None:
    score = create_score("rejection", **{name: asked})
    (loss,) = stages_of(method, score=score)[-1].regularisers
    assert isinstance(loss, RejectionLoss)
    assert getattr(loss.network.options, name) == asked
    with pytest.raises(ConfigError, match=rf"method '{method}' has {name}=.*they are one network"):
        stages_of(method, score=score, **{name: other})


def test_what_a_trained_classifier_looks_at_is_not_made_before_there_is_one(four: Arrays) -> None:
    for method, outliers in (("oe", "kirby"), ("rotpred", {"phase_mix": 1, "kirby": 1}), ("oe", "blurred_object")):
        with pytest.raises(
            ConfigError, match=rf"a trained classifier looks at, and method '{method}' begins with none"
        ):
            guard.train(four, method=method, outliers=outliers, backbone="wrn10_1", epochs=1, device="cpu")


@pytest.mark.parametrize(("share", "epochs", "epoch"), [(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.4, 3, 1)])
def test_a_share_of_the_epochs_is_the_epoch_that_it_says(share: float, epochs: int, epoch: int) -> None:
    (stage,) = stages_of("vos", start=share, epochs=epochs)
    assert stage.start_epoch == epoch
