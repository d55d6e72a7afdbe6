"""Which score is taken where none was asked for, and that it says so."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import guard
from guard.graph.outputs import FeatureClassifier, Outputs
from guard.requests import FitRequest
from guard.scores import create_score
from tests.conftest import Arrays
from train.classifiers.fresh import build_classifier
from train.runs.default_score import PRETRAINED, AskedScore, of_given, that_applies, where_few


class Logits(FeatureClassifier):
    """A classifier whose features cannot be seen."""

    num_features = 2

    def forward(self, x: torch.Tensor) -> Outputs:
        return Outputs(x, x, None)

    def shows(self) -> frozenset[Any]:
        return frozenset({"logits"})

    def why_not(self, need: Any) -> str:
        return "it shows logits alone"


def test_a_model_of_timm_counts_as_pretrained() -> None:
    for model in (timm.create_model("test_resnet", num_classes=3), "resnet18"):
        found = of_given(FitRequest(model=model, data=None))
        assert (found.name, found.options) == (PRETRAINED.name, PRETRAINED.options)
        assert "timm" in found.why
    assert "Hugging Face" in of_given(FitRequest(model="someone/model", data=None)).why


@pytest.mark.parametrize("model", [nn.Linear(3, 2), (len, len), "classifier.onnx", "runs/a/b"])
def test_whatever_shows_no_library_gets_the_energy(model: Any) -> None:
    assert (of_given(FitRequest(model=model, data=None)).name, of_given(FitRequest(model=model, data=None)).why) == (
        "energy",
        "",
    )


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"score": "vim"}, "vim"),
        ({"score_options": {"temperature": 2.0}}, "energy"),
        ({"outliers": "strokes"}, "energy"),
    ],
)
def test_whoever_gives_score_or_options_has_chosen(asked: dict[str, Any], name: str) -> None:
    found = of_given(FitRequest(model="resnet18", data=None, **asked))
    assert (found.name, found.why) == (name, "")


def test_its_parts_are_energy_and_the_distance_on_the_unit_sphere() -> None:
    first, second = create_score(str(PRETRAINED.name), **PRETRAINED.options).parts()
    assert (first.name, second.name, second.options.normalise) == ("energy", "mahalanobis", 1.0)


class TestWhereFewImagesAreHeldOut:
    DEFAULT = AskedScore(None)
    THREE = ("energy", "fdbd", "multilayer_mahalanobis")

    def test_one_part_stands_for_the_combination_that_nobody_asked_for(self, caplog: pytest.LogCaptureFixture) -> None:
        score = create_score("combined", parts=self.THREE)
        assert where_few(score, self.DEFAULT, 800) is score
        assert not caplog.text
        with caplog.at_level(logging.INFO, "ood_guard"):
            assert where_few(score, self.DEFAULT, 799).name == "multilayer_mahalanobis"
        assert "multilayer_mahalanobis alone, because 799 calibration images are fewer than the 800" in caplog.text

    @pytest.mark.parametrize("asked", [AskedScore("combined"), AskedScore(None, {"mirror": True})])
    def test_whoever_asked_for_it_gets_it(self, asked: AskedScore) -> None:
        score = create_score("combined", parts=self.THREE)
        assert where_few(score, asked, 20) is score

    @pytest.mark.parametrize("name", ["vim", "energy+vim", "multilayer_mahalanobis"])
    def test_other_scores_stay(self, name: str) -> None:
        score = create_score(name)
        assert where_few(score, self.DEFAULT, 20) is score


@pytest.mark.parametrize("method", ["plain", "recommended"])
def test_a_fresh_network_has_the_combination_or_a_part_by_the_images_held_out(method: str, four: Arrays) -> None:
    images, labels = (np.concatenate([part] * 4) for part in four)
    rng = np.random.default_rng(0)
    noisy = np.clip(images + rng.integers(0, 3, images.shape), 0, 255).astype(np.uint8)  # copies stay together
    few = {"method": method, "epochs": 1, "backbone": "wrn10_2", "device": "cpu", "augment": "none"}
    found = {n: guard.train((noisy, labels), **few, calibration=n).manifest for n in (100, 800)}
    assert {n: m.score_label for n, m in found.items()} == {
        100: "multilayer_mahalanobis",
        800: "energy+fdbd+multilayer_mahalanobis",
    }
    assert found[800].calibration is not None
    assert found[800].calibration.n == 400


def test_it_gives_way_where_the_features_cannot_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    asked = of_given(FitRequest(model="resnet18", data=None))
    score = create_score(str(asked.name), **asked.options)
    assert that_applies(asked, score, Logits()).name == "energy"
    assert not caplog.text
    with caplog.at_level(logging.INFO, "ood_guard"):
        whole = build_classifier("wrn10_2", "linear", 3, in_chans=3, image_size=16)
        assert that_applies(asked, score, whole) is score
    assert "score: energy+mahalanobis++, because timm models are pretrained as a rule" in caplog.text
