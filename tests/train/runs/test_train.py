"""guard.train from outside: what comes back, and what is on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guard
from guard.data import load
from guard.errors import ConfigError, DataError
from guard.evaluation import metrics
from guard.scores import create_score
from tests.conftest import RECIPES, Arrays
from train.runs.request import TrainConfig
from train.runs.train import fresh_module

Tiny = dict[str, Any]


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_learns_and_is_calibrated(name: str, trained: Callable[[str], Any]) -> None:
    g = trained(name)
    assert g.manifest.metrics["test_accuracy"] > 0.6  # chance is 0.25
    assert np.isfinite(g.threshold)
    shared = 2 if g.manifest.score == "combined" else 1  # half goes into its p-values
    assert g.manifest.calibration.n * shared == len(g.splits["calibration"]) == 100
    low, high = g.manifest.calibration.rate_low, g.manifest.calibration.rate_high
    assert low < 0.05 < high


def test_the_manifest_says_what_was_done(trained: Callable[[str], Any]) -> None:
    m = trained("vos").manifest
    assert (m.method, m.backbone, m.head, m.score) == ("vos", "wrn10_2", "linear", "energy_logistic")
    assert m.method_options["queue"] == 20
    assert m.method_options["weight"] == 0.1  # a default is written down too
    assert m.class_names == ("0", "1", "2", "3")
    assert m.preprocess.height == m.preprocess.width == 16
    assert m.data[0].splits == {"train": 200, "calibration": 100, "test": 100}
    assert {"torch", "timm", "numpy"} <= set(m.versions)


def test_methods_that_need_outliers_see_them(trained: Callable[[str], Any], four: Arrays) -> None:
    """The rejection network tells shuffled patches from digits; outlier exposure is unsure of them."""
    from train.outliers.images.patch_shuffle import shuffle_patches

    images = four[0][trained("plain").splits["test"]]
    shuffled = shuffle_patches(torch.from_numpy(images), 4, torch.Generator().manual_seed(0)).numpy()
    for name in ("rejection", "oe"):
        g = trained(name)
        inside, outside = g.predict(images).ood_score, g.predict(shuffled).ood_score
        assert metrics.auroc(inside, outside) > 0.75
    confident = [trained(name).predict(shuffled).probability.mean() for name in ("oe", "plain")]
    assert confident[0] < confident[1] - 0.1


def test_the_cosine_score_brings_its_head(trained: Callable[[str], Any], four: Arrays) -> None:
    g = trained("cosine")
    assert (g.manifest.head, g.manifest.score) == ("cosine", "cosine")
    scores = g.predict(four[0][:50]).ood_score
    assert scores.min() >= -1
    assert scores.max() <= 1


@pytest.mark.parametrize("score", ["knn", "mahalanobis", "vim", "msp"])
def test_any_score_can_be_asked_for_in_training(score: str, four: Arrays, tiny: Tiny) -> None:
    g = guard.train(four, score=score, **{**tiny, "epochs": 1})
    assert g.manifest.score == score
    assert np.isfinite(g.threshold)


def test_one_channel(four: Arrays, tiny: Tiny) -> None:
    grey = four[0][:200, ..., :1], four[1][:200]
    g = guard.train(grey, in_chans=1, **{**tiny, "epochs": 1})
    assert g.manifest.preprocess.channels == 1
    assert len(g.manifest.normalisation.mean) == 1
    assert len(g.predict(four[0][:3])) == 3  # colour is converted
    assert len(g.predict(four[0][:5, ..., 0])) == 5  # of 3 it may be one with its channels first


def test_two_classes(digits: Callable[[str], Arrays], tiny: Tiny) -> None:
    images, labels = digits("0-1")
    g = guard.train((images, labels), method="mim", **{**tiny, "epochs": 6})  # k = 10 of two classes
    assert g.manifest.metrics["test_accuracy"] > 0.9
    assert g.predict(images[:4]).probabilities.shape == (4, 2)


def test_more_images_per_batch_than_there_are(four: Arrays, tiny: Tiny) -> None:
    g = guard.train((four[0][:80], four[1][:80]), **{**tiny, "batch_size": 512, "epochs": 1})
    assert np.isfinite(g.threshold)


def test_calibration_as_a_share_and_test_as_a_count(four: Arrays, tiny: Tiny) -> None:
    g = guard.train(four, calibration=0.15, test=20, **{**tiny, "epochs": 1})
    assert {k: len(v) for k, v in g.splits.items()} == {"train": 320, "calibration": 60, "test": 20}


def test_calibration_images_of_ones_own_need_no_labels(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    for i, image in enumerate(four[0][300:360]):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    g = guard.train((four[0][:300], four[1][:300]), calibration=tmp_path, test=0, **{**tiny, "epochs": 1})
    assert g.manifest.calibration.n == 60
    assert len(g.splits["train"]) == 300
    expected = np.sort(g.predict(four[0][300:360]).ood_score)
    np.testing.assert_allclose(g.manifest.calibration.scores, expected, rtol=1e-5, atol=1e-5)
    assert g.manifest.metrics == {}


def test_test_images_of_ones_own_are_matched_by_class_name(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """Folders sort "0", "1", "2", "3"; the test folder lacks "0", so its indices are others."""
    for split, rows in (("train", range(300)), ("test", range(300, 400))):
        for row in rows:
            label = four[1][row]
            if split == "train" or label > 0:
                path = tmp_path / split / f"digit {label}" / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(four[0][row]).save(path)
    g = guard.train(tmp_path / "train", test=tmp_path / "test", **tiny)
    kept = np.flatnonzero(four[1][300:] > 0) + 300
    expected = (g.predict(four[0][kept]).label == four[1][kept]).mean()
    assert g.manifest.metrics["test_images"] == 75
    assert g.manifest.metrics["test_accuracy"] == pytest.approx(expected)
    assert expected > 0.6
    (tmp_path / "test" / "digit 1").rename(tmp_path / "test" / "letter l")
    with pytest.raises(DataError, match="classes that the guard does not know: letter l"):
        guard.train(tmp_path / "train", test=tmp_path / "test", **tiny)


def test_ood_sets_are_opened_before_training_and_reported_after(
    four: Arrays, noise: np.ndarray, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = guard.train(four, ood_val={"noise": noise}, **{**tiny, "epochs": 1})
    held = g.predict(four[0][g.splits["test"]]).ood_score
    expected = metrics.auroc(held, g.predict(noise).ood_score)
    assert g.manifest.metrics["noise_auroc"] == pytest.approx(expected)
    monkeypatch.setattr("train.runs.train.train_stages", lambda *_, **__: pytest.fail("trained before looking"))
    with pytest.raises(DataError, match="absent"):
        guard.train(four, ood_val="absent", **tiny)
    with pytest.raises(ConfigError, match="ood_val is compared with test images, and test=0 holds none out"):
        guard.train(four, ood_val=noise, test=0, **tiny)


def test_a_run_can_start_from_another(trained: Callable[[str], Any], four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """With init= the two-stage methods skip their first stage: the classifier is the given one."""
    plain = trained("plain")
    plain.save_pretrained(tmp_path / "plain")
    del (options := {**tiny, **RECIPES["rejection"]})["epochs"]
    g = guard.train(four, init=tmp_path / "plain", **options)
    for key, value in plain.module.classifier.state_dict().items():
        assert torch.equal(value, g.module.classifier.state_dict()[key]), key
    with pytest.raises(ConfigError, match="has head='linear', and this training head='cosine'"):
        guard.train(four, init=tmp_path / "plain", head="cosine", **tiny)


def test_the_run_folder_holds_what_came_back(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    g = guard.train(four, method="vos", out=out, **tiny)
    assert {p.name for p in out.iterdir()} == {
        "checkpoint.safetensors",
        "metrics.jsonl",
        "guard.safetensors",
        "guard.json",
    }
    loaded = guard.load(out, device="cpu")
    assert loaded.manifest == g.manifest
    assert loaded.manifest.name == "a"
    a, b = g.predict(four[0][:40]), loaded.predict(four[0][:40])
    np.testing.assert_array_equal(a.ood_score, b.ood_score)
    np.testing.assert_array_equal(a.p_value, b.p_value)
    with pytest.raises(ConfigError, match=r"already holds a run .*continue it with resume=True"):
        guard.train(four, method="vos", out=out, **tiny)


@pytest.mark.parametrize("name", RECIPES)
def test_every_guard_survives_its_folder(
    name: str, trained: Callable[[str], Any], four: Arrays, tmp_path: Path
) -> None:
    g = trained(name)
    folder = g.save_pretrained(tmp_path / name)
    loaded = guard.Guard.from_pretrained(folder, device="cpu")
    np.testing.assert_allclose(g.predict(four[0][:40]).ood_score, loaded.predict(four[0][:40]).ood_score, rtol=1e-6)
    np.testing.assert_array_equal(g.predict(four[0][:40]).is_ood, loaded.predict(four[0][:40]).is_ood)
    assert loaded.threshold == g.threshold


def test_a_linear_head_starts_one_with_an_extra_class(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """What it says of the C classes is what the run that it starts from says, until it learns."""
    data = load(four)
    guard.train(four, method="plain", out=tmp_path, **tiny)
    sizes = {"image_size": 16, "calibration": 100, "test": 100, "epochs": 1, "lr": 0.1}
    named = {"backbone": "wrn10_2", "head": "c_plus_1", "score": "energy", "data_fingerprint": data.fingerprint}
    config = TrainConfig(method="fodfom", init=str(tmp_path), **named, **sizes)
    ours, _ = fresh_module(config, data, create_score("energy"), torch.device("cpu"))
    first = guard.load(tmp_path).module
    pixels = torch.from_numpy(four[0][:20])
    with torch.no_grad():
        outputs, before = (m.classifier.eval()(m.normalise(pixels)) for m in (ours, first))
    torch.testing.assert_close(outputs.logits, before.logits)
    assert ours.classifier.head.all_logits(outputs.features).shape == (20, 5)


def test_a_training_that_taught_nothing_is_pointed_out(
    four: Arrays, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        guard.train(four, **{**tiny, "epochs": 1, "lr": 10.0})
    assert "% of 100 held-out images, near chance" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        guard.train(four, **tiny)
    assert "near chance" not in caplog.text
