from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np

from guard.artefact.load import load
from guard.manifest import Calibration, Manifest
from guard.verdict import Verdict
from serving.schemas import Answer, histogram, model_card


def calibration(scores: np.ndarray, threshold: float) -> Calibration:
    text = base64.b64encode(np.sort(scores).astype("<f4").tobytes()).decode()
    return Calibration(alpha=0.05, n=len(scores), threshold=threshold, rate_low=0, rate_high=1, scores_base64=text)


def test_an_answer_has_the_fields_of_the_contract_in_their_order() -> None:
    verdict = Verdict(3, "cat", 0.91, -4.1, -2.2, False, 0.41)
    assert json.loads(Answer.of(verdict, "pets@0123456789ab").model_dump_json()) == {
        "label": 3,
        "class_name": "cat",
        "probability": 0.91,
        "ood_score": -4.1,
        "threshold": -2.2,
        "is_ood": False,
        "p_value": 0.41,
        "model": "pets@0123456789ab",
    }


def by_class(manifest: Manifest) -> Manifest:
    """Red has a threshold of its own."""
    update = {
        "class_offsets": (-2.5, 0.0, 0.0),
        "class_counts": (60, 20, 19),
        "class_intervals": ((0.01, 0.1), None, None),
        "labels_base64": base64.b64encode(np.repeat([0, 1, 2], [60, 20, 19]).astype("<u2").tobytes()).decode(),
    }
    assert manifest.calibration is not None
    return manifest.model_copy(update={"calibration": manifest.calibration.model_copy(update=update)})


def test_each_answer_has_the_threshold_of_its_class(colour_guard: Path, manifest: Manifest) -> None:
    g = load(colour_guard, device="cpu")._with(by_class(manifest))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0, ..., 0], images[1, ..., 2] = 140, 140
    red, blue = (Answer.of(verdict, "m") for verdict in g.predict_batches([images]))
    assert (red.class_name, red.threshold, red.is_ood) == ("red", -6.5, True)
    assert (blue.class_name, blue.threshold, blue.is_ood) == ("blue", -4.0, False)
    assert red.ood_score == blue.ood_score
    own = g.manifest.calibration.scores[:60]
    assert red.p_value == (1 + sum(own >= np.float32(red.ood_score))) / 61


def test_the_model_card_shows_the_classes_without_their_bulk(manifest: Manifest) -> None:
    card = json.loads(json.dumps(model_card(by_class(manifest), "guard")))["calibration"]
    assert card["class_thresholds"] == [-6.5, -4.0, -4.0]
    assert card["class_intervals"] == [[0.01, 0.1], None, None]
    assert not {"scores_base64", "labels_base64"} & set(card)


def test_the_histogram_holds_the_threshold_of_every_class(manifest: Manifest) -> None:
    far = by_class(manifest).calibration.model_copy(update={"class_offsets": (-20.0, 0.0, 30.0)})
    edges = histogram(far).edges
    assert edges[0] < -24
    assert edges[-1] > 26


def test_what_is_not_finite_is_null_in_json() -> None:
    answer = Answer.of(Verdict(0, "cat", 1.0, 2.0, math.inf, False, math.nan), "m")
    assert json.loads(answer.model_dump_json()) | {"x": 0} == {
        "label": 0,
        "class_name": "cat",
        "probability": 1.0,
        "ood_score": 2.0,
        "is_ood": False,
        "model": "m",
        "x": 0,
        "threshold": None,
        "p_value": None,
    }


def test_the_histogram_counts_every_score_and_shows_the_threshold() -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    scores[0] = 1e6  # one wild score must not squeeze the rest into one bin
    picture = histogram(calibration(scores, threshold=9.0), bins=20)
    assert sum(picture.counts) == 1000
    assert picture.edges[0] < -2
    assert 9.0 < picture.edges[-1] < 10
    counts, _ = np.histogram(scores[1:].astype("f4"), picture.edges)
    assert list(picture.counts[1:-1]) == counts[1:-1].tolist()
    assert picture.counts[-1] == 1


def test_a_histogram_of_equal_scores_has_a_range() -> None:
    picture = histogram(calibration(np.full(50, 0.0), threshold=0.0))
    assert sum(picture.counts) == 50
    assert picture.edges[0] < 0 < picture.edges[-1]


def test_the_model_card_is_the_manifest_without_its_bulk(manifest: Manifest) -> None:
    card = json.loads(json.dumps(model_card(manifest, "guard")))
    assert card["class_names"] == ["red", "green", "blue"]
    assert card["identity"] == manifest.identity
    assert "scores_base64" not in card["calibration"]
    assert sum(card["calibration"]["histogram"]["counts"]) == manifest.calibration.n
    uncalibrated = model_card(manifest.model_copy(update={"calibration": None}), "guard")
    assert uncalibrated["calibration"] is None
