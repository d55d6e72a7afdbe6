"""Logits are logits: whatever a model returns is told by its values, and becomes a right guard or one sentence."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import guard
from guard.errors import CalibrationError, ConfigError, ModelError
from guard.graph.answers import to_logits
from tests.conftest import Arrays
from tests.train.models import Answering, Unfound, sequential
from train.features.values import kind_of

FIT: dict[str, Any] = {"device": "cpu", "mean": (0.5,) * 3, "std": (0.2,) * 3}
Pair = namedtuple("Pair", "logits other")

SPREAD = torch.linspace(-6, 6, 40).reshape(10, 4).roll(3, 0) * torch.tensor([1.0, -1, 0.5, 2])

KINDS: dict[str, tuple[Tensor, str]] = {
    "logits": (SPREAD, "logits"),
    "softmax": (SPREAD.softmax(1), "softmax"),
    "softmax in half": (SPREAD.softmax(1).half(), "softmax"),
    "log_softmax": (SPREAD.log_softmax(1), "log_softmax"),
    "negative log": (-SPREAD.log_softmax(1), "losses"),
    "percent": (100 * SPREAD.softmax(1), "percent"),
    "sigmoid": (SPREAD.sigmoid(), "sigmoid"),
    "one hot": (nn.functional.one_hot(SPREAD.argmax(1), 4), "decisions"),
    "one row": (SPREAD[:1].repeat(9, 1), "constant"),
    "NaN": (SPREAD / 0 * 0, "not finite"),
    "a few logits in [0, 1]": (0.5 + SPREAD / 100, "logits"),
    "a first logit of 0": (torch.stack((torch.zeros(9), torch.linspace(7, 12, 9)), 1), "logits"),
    "some equal rows": (torch.cat((SPREAD, SPREAD)), "logits"),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_tell_what_they_are(name: str) -> None:
    numbers, kind = KINDS[name]
    assert kind_of(numbers) == kind


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "softmax": (lambda f: f.softmax(-1), r"returns probabilities .*omit its softmax.*outputs='softmax'"),
    "log_softmax": (lambda f: f.log_softmax(-1), r"log-probabilities .*energy would be 0.*outputs='log_softmax'"),
    "sigmoid": (lambda f: (9 * f).sigmoid(), r"a sigmoid of every class by itself .*outputs='sigmoid'"),
    "argmax": (lambda f: f.argmax(-1), r"returns class indices \(an argmax\)"),
    "boxes": (lambda f: [{"boxes": f, "labels": f} for _ in f], "it detects objects"),
    "boxes in a dict": (lambda f: {"boxes": f}, "it detects objects"),
    "map": (lambda f: f[..., None, None].repeat(1, 1, 5, 5), "as segmentation gives"),
    "tokens": (lambda f: f[:, None].repeat(1, 5, 1), "a row per token or box"),
    "constant": (lambda f: 0 * f + 1, "the same numbers for every image"),
    "NaN": (lambda f: f * float("nan"), "NaN or infinite"),
    "one number": (lambda f: 9 * f[:, :1], r"one number per image.*outputs='binary'"),
    "one probability": (lambda f: f[:, :1].sigmoid(), r"one number per image.*outputs='sigmoid'"),
    "one number, flat": (lambda f: f[:, 0], r"one number per image.*outputs='sigmoid' .*outputs='binary'"),
    "nothing": (lambda f: None, r"must return logits \(N, C\), got NoneType"),
    "no tensor": (lambda f: {"a": 1}, r"must return logits"),
    "two that could be": (lambda f: (f, 2 * f), "got tuple .*returns its logits alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_logits_meets_one_sentence(name: str, four: Arrays) -> None:
    answer, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence) as caught:
        guard.fit(Answering(answer), four, **FIT)
    assert len(str(caught.value)) < 300


def test_a_named_layer_does_not_make_log_probabilities_logits(four: Arrays) -> None:
    with pytest.raises(ModelError, match="log-probabilities"):
        guard.fit(Answering(lambda f: f.log_softmax(-1)), four, features="network.4", **FIT)
    body = sequential()[:-1]
    with pytest.raises(ModelError, match=r"^logits, the second of the two callables, returns log-prob"):
        guard.fit((body, nn.Sequential(nn.Linear(32, 4), nn.LogSoftmax(-1))), four, **FIT)


@pytest.mark.parametrize(
    "answer",
    [lambda f: {"logits": f, "aux": f}, lambda f: (f, None), lambda f: Pair(f, f), lambda f: f[..., None, None]],
    ids=["dict", "tuple with one tensor", "named tuple", "trailing ones"],
)
def test_logits_are_found_in_what_a_model_returns(answer: Any, four: Arrays, tmp_path: Path) -> None:
    plain = guard.fit(sequential(), four, score="vim", **FIT).predict(four[0][:40])
    g = guard.fit(Answering(answer), four, score="vim", out=tmp_path, **FIT)
    np.testing.assert_allclose(g.predict(four[0][:40]).ood_score, plain.ood_score, rtol=1e-5)
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=Answering(answer))
    np.testing.assert_allclose(loaded.predict(four[0][:40]).ood_score, plain.ood_score, rtol=1e-5)


@pytest.mark.parametrize("outputs", ["softmax", "log_softmax"])
def test_probabilities_serve_scores_of_probabilities_alone(outputs: str, four: Arrays, tmp_path: Path) -> None:
    expected = guard.fit(sequential(), four, score="msp", **FIT)
    model = Answering(lambda f: getattr(f, outputs)(-1))
    g = guard.fit(model, four, score="msp", outputs=outputs, out=tmp_path / "run", **FIT)
    a, b = (each.predict(four[0][:40]) for each in (g, expected))
    np.testing.assert_allclose(a.probabilities, b.probabilities, rtol=1e-4)
    np.testing.assert_allclose(a.ood_score, b.ood_score, rtol=1e-4)
    again = guard.Guard.from_pretrained(tmp_path / "run", device="cpu", model=model)
    assert (
        guard.fit(again, four, score="entropy", device="cpu").predict(four[0][:40]).label.tolist() == b.label.tolist()
    )
    for score in ("energy", "max_logit"):
        with pytest.raises(ModelError, match=rf"score '{score}' reads the size of the logits, which a softmax loses"):
            guard.fit(model, four, score=score, outputs=outputs, **FIT)


def test_a_sigmoid_per_class_is_taken_where_it_is_asked_for(four: Arrays) -> None:
    model = Answering(lambda f: f.sigmoid())
    with pytest.raises(ModelError, match="sigmoid of every class"):
        guard.fit(Answering(nn.Sigmoid()), four, **FIT)
    a = guard.fit(model, four, outputs="sigmoid", **FIT).predict(four[0][:40])
    b = guard.fit(sequential(), four, **FIT).predict(four[0][:40])
    np.testing.assert_allclose(a.ood_score, b.ood_score, rtol=1e-4)


def two(four: Arrays) -> Arrays:
    return four[0][four[1] < 2], four[1][four[1] < 2]


ONE_COLUMN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "logit": (lambda f: 5 * (f[:, 1:2] - f[:, :1]), "binary"),
    "flat logit": (lambda f: 5 * (f[:, 1] - f[:, 0]), "binary"),
    "probability": (lambda f: (5 * (f[:, 1:2] - f[:, :1])).sigmoid(), "sigmoid"),
    "flat probability": (lambda f: (5 * (f[:, 1] - f[:, 0])).sigmoid(), "sigmoid"),
}


@pytest.mark.parametrize("name", ONE_COLUMN)
def test_one_column_is_a_classifier_of_two_classes(name: str, four: Arrays, tmp_path: Path) -> None:
    answer, outputs = ONE_COLUMN[name]
    g = guard.fit(Answering(answer), two(four), outputs=outputs, **FIT)
    images = two(four)[0][:50]
    f = g.module.classifier.model.network(g.module.normalise(torch.from_numpy(images))).double()
    z = 5 * (f[:, 1] - f[:, 0])
    verdicts = g.predict(images)
    np.testing.assert_allclose(verdicts.probabilities[:, 1], z.sigmoid().numpy(), rtol=1e-3, atol=1e-6)
    assert verdicts.label.tolist() == (z > 0).long().tolist()
    np.testing.assert_allclose(verdicts.ood_score, -torch.log(2 * torch.cosh(z / 2)).numpy(), rtol=1e-3)
    exported = guard.load(guard.export(g, tmp_path / "g.onnx"), device="cpu").predict(images)
    np.testing.assert_allclose(exported.ood_score, verdicts.ood_score, rtol=1e-3)


def test_the_weights_of_a_single_logit_are_those_of_both(four: Arrays, tmp_path: Path) -> None:
    g = guard.fit(sequential(classes=1), two(four), outputs="binary", score="vim", out=tmp_path, **FIT)
    layer, outputs = g.module.classifier.last_layer(), g.module.outputs(torch.from_numpy(four[0][:9]))
    assert layer is not None
    torch.testing.assert_close(outputs.features @ layer.weight.T + layer.bias, outputs.logits)
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=sequential(classes=1))
    np.testing.assert_allclose(loaded.predict(four[0][:9]).ood_score, g.predict(four[0][:9]).ood_score, rtol=1e-5)
    pair = guard.fit((sequential()[:-1], sequential(classes=1)[-1]), two(four), outputs="binary", score="vim", **FIT)
    np.testing.assert_allclose(pair.predict(four[0][:9]).ood_score, g.predict(four[0][:9]).ood_score, rtol=1e-4)


@pytest.mark.parametrize(
    ("answer", "outputs", "sentence"),
    [
        (lambda f: 9 * f[:, :1], "sigmoid", r"outside \[0, 1\].*outputs='binary'"),
        (
            lambda f: (1e3 * (f[:, :1] - f[:, :1].mean())).sigmoid(),
            "binary",
            r"in \[0, 1\], as a sigmoid .*outputs='sigmoid'",
        ),
        (lambda f: f, "binary", r"returns 4 numbers per image; outputs='binary' is for one"),
        (lambda f: f, "softmax", r"does not return what softmax gives"),
        (lambda f: f.softmax(-1), "logits", r"returns probabilities"),
    ],
)
def test_what_outputs_says_is_checked(answer: Any, outputs: str, sentence: str, four: Arrays) -> None:
    with pytest.raises(ModelError, match=sentence):
        guard.fit(Answering(answer), four, outputs=outputs, **FIT)


def test_a_guard_knows_what_its_outputs_are(trained: Callable[[str], Any], four: Arrays) -> None:
    with pytest.raises(ConfigError, match="has its own outputs; omit it"):
        guard.fit(trained("plain"), four, outputs="sigmoid", device="cpu")
    with pytest.raises(ConfigError, match=r"outputs: .*'logits'.*got 'logit'"):
        guard.fit(sequential(), four, outputs="logit", **FIT)


def test_conversions_stay_finite_at_both_ends() -> None:
    ends = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for outputs in ("softmax", "sigmoid"):
        assert torch.isfinite(to_logits(ends, outputs)).all()
    assert torch.isfinite(to_logits(torch.tensor([0.0, 1.0]), "sigmoid")).all()


def test_scores_of_logits_need_no_features(four: Arrays, tmp_path: Path) -> None:
    for model in (Unfound(), Answering(lambda f: 2 * f)):
        for score in ("energy", "msp", "odin"):
            g = guard.fit(model, four, score=score, **FIT)
            assert g.module.classifier.num_features == 0
        with pytest.raises(
            ModelError, match=r"score 'knn' needs the features .*; name the module .*features="
        ) as caught:
            guard.fit(model, four, score="knn", **FIT)
        assert len(str(caught.value)) < 300
    g = guard.fit(Unfound(), four, out=tmp_path, **FIT)
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=Unfound())
    np.testing.assert_array_equal(loaded.predict(four[0][:9]).ood_score, g.predict(four[0][:9]).ood_score)
    exported = guard.load(guard.export(g, tmp_path / "g.onnx"), device="cpu")
    np.testing.assert_allclose(exported.predict(four[0][:9]).ood_score, g.predict(four[0][:9]).ood_score, rtol=1e-4)


def test_a_score_without_spread_is_no_guard(four: Arrays, trained: Callable[[str], Any]) -> None:
    """By every way of making a guard; some equal scores are no harm."""
    dead = copy.deepcopy(trained("plain"))
    with torch.no_grad():
        for parameter in dead.module.classifier.head.parameters():
            parameter.zero_()
    for make in (dead.calibrate, lambda images: guard.calibrate(dead, images)):
        with pytest.raises(CalibrationError, match=r"all 40 calibration images have the same ood_score, -1.38"):
            make(four[0][:40])
    ties = trained("plain").with_calibration(np.array([1.0] * 39 + [2.0]))
    assert ties.manifest.calibration.n == 40
