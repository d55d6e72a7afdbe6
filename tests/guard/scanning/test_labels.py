"""Likely mislabelled and off-class images, against the slow and obvious formulas."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import guard
from guard.errors import DataError
from guard.scanning.labels import largest_discovery, likely_mislabelled, self_confidence
from tests.guard.scanning.conftest import rows_of

RNG = np.random.default_rng(0)


def _probabilities(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    logits = RNG.normal(size=(n, classes)) * 2
    given = RNG.integers(0, classes, n)
    logits[np.arange(n), given] += 2
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True), given


def test_confident_learning_is_that_of_its_definition() -> None:
    """The confident joint, image by image (Northcutt et al. 2021), where the predicted class is above its threshold."""
    p, given = _probabilities(400, 4)
    t = np.array([np.mean([p[k, j] for k in range(400) if given[k] == j]) for j in range(4)])
    wrong = []
    for k in range(400):
        above = [j for j in range(4) if p[k, j] >= t[j]]
        counted = max(above, key=lambda j: p[k, j]) if above else None
        wrong.append(counted is not None and counted != given[k] and counted == p[k].argmax())
    cut = [
        {"given_label": given[s], "given_probability": p[np.arange(400), given][s]}
        for s in (slice(0, 150), slice(150, 400))
    ]
    thresholds = self_confidence(iter(cut), 4)
    np.testing.assert_allclose(thresholds, t)
    found = likely_mislabelled(given, p.argmax(1), p.max(1), thresholds)
    assert found.tolist() == wrong
    assert 5 < found.sum() < 200


def test_a_class_without_images_has_no_threshold_and_gets_none() -> None:
    thresholds = self_confidence([{"given_label": np.array([0, 0]), "given_probability": np.array([0.5, 0.7])}], 2)
    assert thresholds[0] == pytest.approx(0.6)
    assert np.isnan(thresholds[1])
    assert not likely_mislabelled(np.array([0]), np.array([1]), np.array([0.99]), thresholds).any()


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_discoveries_are_those_of_scipy(rate: float) -> None:
    from scipy.stats import false_discovery_control

    ordinary, strange = RNG.integers(1, 201, 300) / 201, RNG.integers(1, 4, 60) / 201
    p = np.concatenate([ordinary, strange])
    wanted = false_discovery_control(p) <= rate
    limit = largest_discovery(Counter(p.tolist()), rate)
    found = np.zeros(len(p), bool) if limit is None else p <= limit
    assert found.tolist() == wanted.tolist()
    assert found.sum() >= 60 or rate < 0.1


def test_few_calibration_images_find_nothing() -> None:
    assert largest_discovery(Counter({0.01: 2, 0.5: 98}), 0.1) is None
    assert largest_discovery({}, 0.1) is None


def test_wrong_labels_and_strange_images_are_found(colours: Path, folder: Path, tmp_path: Path) -> None:
    """Two images that are moved into another class; and enough dark ones, which are of no class."""
    (folder / "red" / "07.png").rename(folder / "green" / "x07.png")
    (folder / "blue" / "11.png").rename(folder / "red" / "x11.png")
    found = guard.scan(colours, folder, out=tmp_path / "out", labelled=True, workers=0, device="cpu")
    assert found.labels is not None
    assert {image.path for image in found.labels.worst} >= {"green/x07.png", "red/x11.png"}
    moved = {(pair.given_class, pair.class_name): pair.images for pair in found.labels.pairs}
    assert moved[("green", "red")] == moved[("red", "blue")] == 1
    assert {image.path for image in found.labels.strangest[:3]} == {
        f"{name}/00.png" for name in ("red", "green", "blue")
    }
    row = next(row for row in rows_of(tmp_path / "out") if row["path"] == "green/x07.png")
    assert (row["given_class"], row["given_label"], row["class_name"]) == ("green", 1, "red")
    verdict = guard.load(colours, device="cpu").predict(folder / "green" / "x07.png")
    assert row["given_probability"] == pytest.approx(verdict.probabilities[0, 1])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Likely mislabelled" in page
    assert "<b>green</b> → red" in page
    assert "of another class than is given" in str(found)


def test_unlabelled_scans_say_nothing_of_labels(colours: Path, folder: Path, tmp_path: Path) -> None:
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=0, device="cpu")
    assert found.labels is None
    assert "given_label" not in rows_of(tmp_path / "out")[0]
    assert "Likely mislabelled" not in (tmp_path / "out" / "report.html").read_text()


def test_classes_that_the_guard_does_not_have_are_refused(colours: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "red").rename(folder / "purple")
    with pytest.raises(DataError, match=r"classes that the guard does not know: purple;.* without labelled="):
        guard.scan(colours, folder, out=tmp_path / "out", labelled=True, device="cpu")
    assert not (tmp_path / "out" / "scan.json").exists()
