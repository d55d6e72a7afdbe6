"""`guard.calibrate` and the command: which images are used, what is written, what is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard import cli
from guard.data import load
from guard.errors import CalibrationError, ConfigError, DataError
from guard.evaluation import metrics
from guard.manifest import DataCard
from tests.conftest import Arrays


@pytest.fixture(scope="module")
def noisy(four: Arrays) -> Arrays:
    """Every tenth label wrong: digits are too easy for a temperature."""
    images, labels = four
    return images, np.where(np.arange(len(labels)) % 10 == 0, (labels + 1) % 4, labels)


def test_the_images_it_was_trained_on_are_left_out(trained: Callable[[str], Any], four: Arrays, caplog: Any) -> None:
    """On the whole of its own data the guard takes exactly the split it was calibrated on before."""
    g = trained("plain")
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        again = guard.calibrate(g, four)
    assert again.manifest.calibration == g.manifest.calibration
    assert "only the 100 images held out of it are used" in caplog.text
    by_class = guard.calibrate(g, four, class_conditional=True, min_class_images=19, alpha=0.1)
    assert by_class.manifest.calibration.n == 100
    assert by_class.manifest.calibration.class_conditional


def test_target_and_thresholds_per_class_stay_the_guards_own(trained: Callable[[str], Any], four: Arrays) -> None:
    """Whoever asks for nothing gets the guard that there was, on other images."""
    first = guard.calibrate(trained("plain"), four, class_conditional=True, min_class_images=9, alpha=0.1)
    images = four[0][:120]
    for again in (guard.calibrate(first, images), first.calibrate(images)):
        assert (again.manifest.calibration.alpha, again.manifest.calibration.class_conditional) == (0.1, True)
    other = guard.calibrate(first, images, alpha=0.2, class_conditional=False).manifest.calibration
    assert (other.alpha, other.class_conditional) == (0.2, False)
    bare = first._with(first.manifest.model_copy(update={"calibration": None}))
    assert bare.calibrate(images).manifest.calibration.alpha == 0.05


def test_a_place_of_another_kind_is_refused_before_an_image_is_read(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("guard.engine", "guard.json", "run"):
        with pytest.raises(ConfigError, match=f"cannot be saved as {name}; use guard.export"):
            guard.calibrate(exported("plain"), tmp_path / "no images", out=tmp_path / name)


def test_images_that_a_score_learned_from_are_left_out_too(trained: Callable[[str], Any], four: Arrays) -> None:
    """A combined score's p-values are of half of the held-out images; its threshold is of the other half."""
    g = guard.fit(trained("plain"), four, score="energy+vim")
    assert g.manifest.data[0].settled == 50
    assert g.manifest.calibration.n == 50
    again = guard.calibrate(g, four)
    assert again.manifest.calibration == g.manifest.calibration
    assert guard.calibrate(again, four, alpha=0.3).manifest.calibration.n == 50


def test_training_images_alone_are_refused(trained: Callable[[str], Any], four: Arrays) -> None:
    g = trained("plain")
    card = g.manifest.data[0]
    own = DataCard(**{**card.model_dump(), "splits": {"train": 400, "calibration": 0, "test": 0}})
    other = g._with(g.manifest.model_copy(update={"data": (own,)}))
    with pytest.raises(DataError, match="no calibration split held out: a threshold from training images"):
        guard.calibrate(other, four)


def test_images_of_other_classes_are_taken_and_it_is_said(
    trained: Callable[[str], Any], digits: Callable[[str], Arrays], caplog: Any
) -> None:
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        again = guard.calibrate(trained("plain"), digits("0-6"), alpha=0.1)
    assert again.manifest.calibration.n == len(digits("0-6")[0])
    assert "every image of arrays is taken as in-distribution, though " in caplog.text


def test_other_images_are_used_whole_with_or_without_labels(trained: Callable[[str], Any], four: Arrays) -> None:
    g, part = trained("plain"), (four[0][:200], four[1][:200])
    for data in (part, part[0], list(part[0])):
        again = guard.calibrate(g, data, alpha=0.1)
        assert again.manifest.calibration == g.calibrate(part[0], alpha=0.1).manifest.calibration
        assert again.manifest.temperature is None
    with pytest.raises(DataError):
        guard.calibrate(g, part[0], temperature_scaling=True)


def test_it_equals_the_method_on_the_same_images(trained: Callable[[str], Any], noisy: Arrays) -> None:
    g = trained("plain")
    options: dict[str, Any] = {"class_conditional": True, "min_class_images": 19, "temperature_scaling": True}
    ours = guard.calibrate(g, noisy, **options)
    theirs = g.calibrate(noisy[0], labels=noisy[1], **options)
    assert ours.manifest == theirs.manifest
    assert ours.manifest.temperature.measured_on == "calibration"
    # a second calibration starts from the classifier's own probabilities, not from tempered ones
    assert guard.calibrate(ours, noisy, **options).manifest == ours.manifest


def test_a_file_is_replaced_or_another_written(exported: Callable[[str], Path], noisy: Arrays, tmp_path: Path) -> None:
    before = exported("plain").read_bytes()
    out = tmp_path / "again.onnx"
    made = guard.calibrate(exported("plain"), noisy, out=out, alpha=0.2)
    assert exported("plain").read_bytes() == before
    assert guard.load(out, device="cpu").manifest == made.manifest
    guard.calibrate(out, noisy, out=out, class_conditional=True)
    assert guard.load(out, device="cpu").manifest.calibration.class_conditional


def test_what_is_missing_is_said(trained: Callable[[str], Any], four: Arrays) -> None:
    g = trained("plain")
    with pytest.raises(ConfigError, match="temperature_scaling needs labels="):
        g.calibrate(four[0], temperature_scaling=True)
    with pytest.raises(ConfigError, match="min_class_images is for class_conditional=True"):
        g.calibrate(four[0], min_class_images=20)
    with pytest.raises(CalibrationError, match=r"min_class_images must be at least 99 for alpha=0\.01, got 98"):
        guard.calibrate(g, "no/such/folder", class_conditional=True, min_class_images=98, alpha=0.01)
    with pytest.raises(CalibrationError, match="alpha must be between 0 and 1"):
        guard.calibrate(g, "no/such/folder", alpha=5)
    with pytest.raises(CalibrationError, match=r"labels must be one class index per image, 400 of them"):
        g.calibrate(four[0], labels=four[1][:7], temperature_scaling=True)


def test_classes_on_the_pooled_threshold_are_named(trained: Callable[[str], Any], four: Arrays, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        made = trained("plain").calibrate(four[0][four[1] < 3], class_conditional=True)
    few = [n for n, count in zip("0123", made.manifest.calibration.class_counts, strict=True) if count < 50]
    assert "3" in few
    assert f"{len(few)} of 4 classes keep the pooled threshold, with fewer than 50 calibration images" in caplog.text
    assert f"predicted as them: {', '.join(few)}" in caplog.text


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        return (end.value.code or 0, *capsys.readouterr())

    yield call
    logging.getLogger("ood_guard").handlers.clear()


@pytest.fixture
def folder(noisy: Arrays, tmp_path: Path) -> Path:
    """The images as a folder per class."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(*noisy, strict=True)):
        path = tmp_path / "images" / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "images"


def test_the_command_prints_before_and_after(
    run: Any, exported: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "by_class.onnx"
    options = ("--class-conditional", "--min-class-images", 19, "--temperature-scaling", "--alpha", 0.1)
    code, text, error = run("calibrate", exported("plain"), folder, "-o", out, *options)
    assert code == 0, error
    made = guard.load(out, device="cpu").manifest
    limits, scaling = made.calibration.class_thresholds, made.temperature
    lines = " ".join(text.split())
    assert "before threshold" in lines
    assert "for 5.0% false alarms (95 % interval" in lines
    assert f"after thresholds {limits.min():.4g} to {limits.max():.4g} by predicted class, for 10.0%" in lines
    assert f"temperature {scaling.value:.4g}, calibration error (ECE) {scaling.ece_before:.2%} ->" in lines
    assert f"wrote {out} ({made.identity})" in lines


def test_the_command_replaces_a_run_folder_and_says_that_its_export_is_old(
    run: Any, trained: Callable[[str], Any], exported: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    path = trained("plain").save_pretrained(tmp_path / "run")
    (path / "guard.onnx").write_bytes(exported("plain").read_bytes())
    code, text, error = run("calibrate", path, folder, "--alpha", "0.2")
    assert code == 0, error
    assert f"note: {path / 'guard.onnx'} keeps its own calibration" in text
    assert guard.load(path, device="cpu").manifest.calibration.alpha == 0.2
    code, text, _ = run("calibrate", path, folder, "--class-conditional", "--json")
    read = json.loads(text)
    assert (read["before"]["alpha"], read["after"]["alpha"]) == (0.2, 0.2)
    assert guard.load(path, device="cpu").manifest.calibration.class_conditional
    code, text, _ = run("calibrate", path, folder, "--no-class-conditional", "--alpha", "0.05", "--json")
    read = json.loads(text)
    assert (read["before"]["alpha"], read["after"]["alpha"]) == (0.2, 0.05)
    assert not guard.load(path, device="cpu").manifest.calibration.class_conditional
    assert read["after"]["threshold"] == guard.load(path, device="cpu").threshold


# --------------------------------------------------------------------------------------------------------- training


def test_training_offers_both(four: Arrays, noisy: Arrays, tiny: dict[str, Any], caplog: Any) -> None:
    """40 images to calibrate on leave every class on the pooled threshold, which is said; the temperature is measured
    on the test split."""
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        g = guard.train(noisy, calibration=160, test=80, class_conditional=True, temperature_scaling=True, **tiny)
    m = g.manifest
    assert m.calibration.class_conditional
    assert m.calibration.n == 160
    assert (m.temperature.n, m.temperature.measured_on, m.temperature.measured_images) == (160, "test", 80)
    rows = g.splits["test"]
    plain = g.untempered().predict(noisy[0][rows])
    assert m.temperature.ece_before == pytest.approx(
        metrics.expected_calibration_error(plain.probabilities, noisy[1][rows]), abs=1e-6
    )
    assert f"temperature {m.temperature.value:.3f} from 160 images: ECE" in caplog.text
    fitted = guard.fit(g, noisy, score="max_logit", class_conditional=True, temperature_scaling=True, device="cpu")
    assert fitted.manifest.calibration.class_counts == m.calibration.class_counts  # the same split
    assert fitted.manifest.temperature == m.temperature


def test_training_goes_on_where_no_temperature_fits(trained: Callable[[str], Any], four: Arrays, caplog: Any) -> None:
    """A classifier that is right on every calibration image."""
    g = trained("plain")
    right = trained("plain").predict(four[0]).label
    own = (four[0], right)
    made = guard.fit(g, own, temperature_scaling=True, device="cpu", calibration=own, test=0)
    assert made.manifest.temperature is None
    assert "the probabilities stay as they are: all 400 labelled images are classified right" in caplog.text


def test_a_calibration_set_of_its_own_needs_labels_for_a_temperature(
    trained: Callable[[str], Any], four: Arrays
) -> None:
    g = trained("plain")
    guard.fit(g, four, device="cpu", calibration=four[0][:100])
    with pytest.raises(DataError):
        guard.fit(g, four, device="cpu", calibration=four[0][:100], temperature_scaling=True)


def test_the_own_split_is_that_of_training(trained: Callable[[str], Any], four: Arrays) -> None:
    """What `guard.calibrate` draws again are the rows that were held out."""
    from guard.data.test_images import calibration_images

    g = trained("plain")
    images, labels, _ = calibration_images(g.manifest, four, labelled=True)
    np.testing.assert_array_equal(images.rows, g.splits["calibration"])
    np.testing.assert_array_equal(labels, four[1][g.splits["calibration"]])
    assert load(four, preprocess=g.manifest.preprocess).fingerprint == images.fingerprint
