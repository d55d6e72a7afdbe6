"""guard.fit with score "rejection": a network on the frozen features of any classifier, learned from outliers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import guard
from guard.errors import ConfigError, GuardError, ModelError
from guard.evaluation.metrics import auroc
from guard.scores.rejection import Rejection
from tests.conftest import Arrays
from tests.train.classifiers import hf_models, onnx_nets
from tests.train.models import Convolutional, sequential

INPUT: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "device": "cpu"}
SHORT: dict[str, Any] = {"score": "rejection", "score_options": {"hidden": 16}, "training": {"tune_epochs": 2}}


def onnx_file(folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(onnx_nets.build(next(iter(onnx_nets.FILES.values()))), path)
    return path


def timm_model() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=4)


MODELS: dict[str, Callable[[Path], Any]] = {
    "torch": lambda _: sequential(),
    "no linear layer": lambda _: Convolutional(),
    "timm": lambda _: timm_model(),
    "hugging face": lambda _: hf_models.MODELS["resnet"](),
    "onnx": onnx_file,
}


@pytest.fixture(scope="module")
def noise_of(four: Arrays) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (120, *four[0].shape[1:]), dtype=np.uint8)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "timm")) for k in MODELS])
def test_a_rejection_network_goes_on_any_frozen_classifier_and_is_exported_with_it(
    kind: str, four: Arrays, noise_of: np.ndarray, tmp_path: Path
) -> None:
    model = MODELS[kind](tmp_path)
    data = (four[0][:160], four[1][:160])
    where: dict[str, Any] = {"no linear layer": {"features": "body"}, "timm": {"image_size": 32}}.get(kind, {})
    options = {} if kind == "hugging face" else INPUT
    options = {"device": "cpu", **options, **where}
    state = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    plain = guard.fit(model, data, score="energy", **options)
    g = guard.fit(model, data, outliers=noise_of, out=tmp_path / "run", **SHORT, **options)
    for name, value in state.items():
        assert torch.equal(value, model.state_dict()[name])
    np.testing.assert_array_equal(g.predict(data[0]).probabilities, plain.predict(data[0]).probabilities)
    score = g.module.score
    assert isinstance(score, Rejection)
    assert score.mlp is not None
    assert score.mlp[0].in_features == g.module.classifier.num_features
    assert g.manifest.method_options["training"]["tune_epochs"] == 2
    graph = guard.export(g, tmp_path / "guard.onnx")
    assert guard.verify(graph, against=g, data=data[0]).flag_flips == 0


def test_it_tells_the_outliers_that_it_learned_from(four: Arrays, noise_of: np.ndarray, tmp_path: Path) -> None:
    training = {"tune_epochs": 8, "tune_lr": 0.05, "batch_size": 16}
    g = guard.fit(sequential(), four, score="rejection", outliers=noise_of, training=training, out=tmp_path, **INPUT)
    held = g.predict(four[0][g.splits["calibration"]]).ood_score
    fresh = np.random.default_rng(2).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)
    assert auroc(held, g.predict(fresh).ood_score) > 0.95
    again = guard.Guard.from_pretrained(tmp_path, device="cpu", model=sequential())
    np.testing.assert_allclose(again.predict(fresh).ood_score, g.predict(fresh).ood_score, rtol=1e-5)


@pytest.mark.parametrize("outliers", ["phase_mix", "store", {"strokes": 2.0, "patch_shuffle": 1.0}])
def test_outliers_may_be_a_store_or_synthesisers(outliers: Any, four: Arrays, tmp_path: Path) -> None:
    if outliers == "store":  # of the DMR family, as guard synth makes it
        pair = {"epochs": 1, "width": 4, "latent": 8}
        store = guard.synth(four, method="dmr", pair=pair, count=48, out=tmp_path / "s", gallery=False, device="cpu")
        outliers = str(store.folder)
    g = guard.fit(sequential(), four, outliers=outliers, **SHORT, **INPUT)
    assert np.ptp(g.predict(four[0][:40]).ood_score) > 0
    both = guard.fit(
        sequential(), four, score="rejection+energy", outliers=outliers, training={"tune_epochs": 1}, **INPUT
    )
    assert both.manifest.score_options["parts"] == ("rejection", "energy")
    assert np.isfinite(both.predict(four[0][:40]).ood_score).all()


def test_a_guard_learns_a_network_anew_from_outliers_and_keeps_its_own_without(
    trained: Callable[[str], Any], four: Arrays, noise_of: np.ndarray
) -> None:
    g = trained("rejection")
    kept = guard.fit(g, four, score="rejection", device="cpu")
    np.testing.assert_array_equal(kept.predict(four[0][:40]).ood_score, g.predict(four[0][:40]).ood_score)
    on_map = {"score": "rejection", "score_options": {"hidden": 8, "tap": "map"}, "training": {"tune_epochs": 1}}
    other = guard.fit(g, four, outliers=noise_of, device="cpu", **on_map)
    assert other.module.score.mlp[0].in_features == 128 * 4 * 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score": "rejection"}, "score 'rejection' learns from outliers: give outliers="),
        ({"score": "vim", "outliers": "strokes"}, "score 'vim' does not learn from outliers: drop outliers="),
        ({"score": "energy", "training": {"tune_epochs": 2}}, "give outliers=, or drop it"),
        ({**SHORT, "outliers": "strokes", "training": {"epochs": 2}}, r"training= has no option 'epochs'"),
        ({**SHORT, "outliers": "strokes", "training": {"match": "coding"}}, "is for stores"),
        ({**SHORT, "outliers": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_sentence(
    options: dict[str, Any], sentence: str, four: Arrays
) -> None:
    with pytest.raises(GuardError, match=sentence) as caught:
        guard.fit(sequential(), four, **options, **INPUT)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_foreign_classifier_shows_no_map(four: Arrays) -> None:
    with pytest.raises(ModelError, match=r"needs the last feature map; only classifiers that guard.train made show it"):
        guard.fit(sequential(), four, score="rejection", score_options={"tap": "map"}, outliers="strokes", **INPUT)
    for score in ("energy_logistic", "knn+energy_logistic"):
        with pytest.raises(ConfigError, match="score 'energy_logistic' is learned in training"):
            guard.fit(sequential(), four, score=score, **INPUT)
    rows = {row.name: row for row in guard.list_scores(model=sequential()).rows}
    assert rows["rejection"].applies
    assert rows["rejection"].cells()[3] == "from outliers"
