"""`guard.evaluate` on a guard whose answers are written into the pixels, so every number is known beforehand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import guard
from guard._siblings import sibling
from guard.calibration.by_class import calibrate_by_class
from guard.calibration.conformal import calibrate, flag_count_interval
from guard.data.test_images import id_test_images, match_classes
from guard.detector import Guard
from guard.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from guard.evaluation import metrics
from guard.evaluation.evaluate import Evaluation
from guard.manifest import Calibration, DataCard, Manifest, Normalisation, Preprocess
from guard.runtimes import Outputs

NAMES = ("cat", "dog", "eel")


class PixelRuntime:
    """Reads label and score from the first pixels of an image: label, then score in 1/16."""

    name = "pixels"
    device = "cpu"

    def run(self, images: np.ndarray, threshold: float | None = None) -> Outputs:
        label = images[:, 0, 0, 0].astype(np.int64)
        score = images[:, 0, 1, 0].astype(np.float32) / 16
        probabilities = np.full((len(images), len(NAMES)), 0.1, np.float32)
        probabilities[np.arange(len(images)), label] = 0.8
        assert threshold is not None
        return Outputs(label, probabilities, score, score > np.float32(threshold))


def pictures(labels: np.ndarray, scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 (N, 8, 8, 3) images for which the guard answers `labels` and `scores` (in 0 .. 15.9, rounded to 1/16)."""
    images = np.random.default_rng(seed).integers(0, 255, size=(len(labels), 8, 8, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = labels
    images[:, 0, 1, 0] = np.clip(np.round(scores * 16), 0, 255)
    return images


def pixel_guard(calibration: Calibration | None, **facts: object) -> Guard:
    manifest = Manifest.model_validate(
        {
            "name": "pets",
            "class_names": NAMES,
            "preprocess": Preprocess(height=8, width=8),
            "normalisation": Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
            "method": "plain",
            "backbone": "wrn16_2",
            "head": "linear",
            "score": "energy",
            "calibration": calibration,
            "weights_sha256": "ab" * 32,
            **facts,
        }
    )
    return Guard(manifest, PixelRuntime())


def normal_scores(count: int, centre: float, seed: int) -> np.ndarray:
    return np.round(np.random.default_rng(seed).normal(centre, 1, count).clip(0, 15.9) * 16) / 16


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(normal_scores(1000, 4, seed=1), alpha=0.05)


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true labels, predicted labels, scores) of 400 ID images; every tenth prediction is wrong."""
    labels = np.random.default_rng(2).integers(0, 3, 400)
    predicted = labels.copy()
    predicted[::10] = (labels[::10] + 1) % 3
    return labels, predicted, normal_scores(400, 4, seed=3)


@pytest.fixture(scope="module")
def evaluation(calibration: Calibration, answers: tuple[np.ndarray, ...]) -> Evaluation:
    labels, predicted, scores = answers
    ood = {
        "far": pictures(np.zeros(200, int), normal_scores(200, 9, seed=4)),
        "further": pictures(np.zeros(100, int), normal_scores(100, 12, seed=5)),
        "near": pictures(np.zeros(150, int), normal_scores(150, 5, seed=6)),
    }
    return guard.evaluate(
        pixel_guard(calibration),
        id=(pictures(predicted, scores), labels),
        ood=ood,
        near=["near"],
        bootstrap=50,
        seed=7,
        batch_size=33,
    )


def test_the_id_numbers(evaluation: Evaluation, calibration: Calibration, answers: tuple[np.ndarray, ...]) -> None:
    labels, predicted, scores = answers
    result = evaluation.id
    flagged = scores > calibration.threshold
    assert result.images == 400
    np.testing.assert_array_equal(result.labels, labels)
    assert result.accuracy == 0.9
    assert result.accuracy_interval[0] < 0.9 < result.accuracy_interval[1]
    assert result.accuracy_accepted == pytest.approx((predicted == labels)[~flagged].mean())
    assert result.false_alarm_rate == pytest.approx(flagged.mean())
    low, high = flag_count_interval(400, calibration)
    assert result.expected == (low / 400, high / 400)
    assert result.as_expected is bool(low <= flagged.sum() <= high)


def test_the_ood_numbers(evaluation: Evaluation, calibration: Calibration, answers: tuple[np.ndarray, ...]) -> None:
    id_scores = answers[2]
    for result, (name, count, centre, seed) in zip(
        evaluation.ood, [("far", 200, 9, 4), ("further", 100, 12, 5), ("near", 150, 5, 6)], strict=True
    ):
        scores = normal_scores(count, centre, seed)
        assert (result.name, result.images, result.near) == (name, count, name == "near")
        assert result.metrics == metrics.detection_metrics(id_scores, scores)
        assert result.intervals == metrics.bootstrap(id_scores, scores, resamples=50, seed=7)
        assert result.flagged == pytest.approx((scores > calibration.threshold).mean())
        np.testing.assert_array_equal(result.verdicts.ood_score, scores)


def test_means_are_plain_means_over_the_sets_of_a_group(evaluation: Evaluation) -> None:
    far, further, near = evaluation.ood
    mean = evaluation.mean(near=False)
    assert mean is not None
    assert mean["auroc"] == pytest.approx((far.metrics.auroc + further.metrics.auroc) / 2)
    assert mean["flagged"] == pytest.approx((far.flagged + further.flagged) / 2)
    assert evaluation.mean(near=True) == pytest.approx(
        {name: getattr(near.metrics, name) for name in metrics.METRICS} | {"flagged": near.flagged}
    )


def test_results_do_not_depend_on_the_batch_size(calibration: Calibration, answers: tuple[np.ndarray, ...]) -> None:
    labels, predicted, scores = answers
    g, data = pixel_guard(calibration), (pictures(predicted, scores), labels)
    assert guard.evaluate(g, id=data, batch_size=1).to_dict() == guard.evaluate(g, id=data, batch_size=400).to_dict()


def by_class(least: int = 50) -> Calibration:
    """900 images: class 0 scores low, class 1 high; class 2 has 30 of them."""
    labels = np.repeat([0, 1, 2], [435, 435, 30])
    scores = np.concatenate([normal_scores(435, 3, seed=11), normal_scores(435, 6, seed=12), normal_scores(30, 4, 13)])
    return calibrate_by_class(scores, labels, classes=3, alpha=0.05, min_class_images=least)


def two_classes() -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([0, 1], 150)
    scores = np.concatenate([normal_scores(150, 3, seed=14), normal_scores(150, 6, seed=15)])
    return pictures(labels, scores), labels


def test_false_alarms_by_predicted_class() -> None:
    result = guard.evaluate(pixel_guard(by_class()), id=two_classes())
    calibration, v = result.manifest.calibration, result.id.verdicts
    assert calibration is not None
    limits = calibration.class_thresholds
    np.testing.assert_array_equal(v.is_ood, v.ood_score > limits[v.label])
    assert list(result.id.classes) == ["cat", "dog"]
    for c, name in enumerate(("cat", "dog")):
        found = result.id.classes[name]
        assert (found.images, found.threshold) == (150, limits[c])
        assert found.false_alarm_rate == pytest.approx((v.ood_score[v.label == c] > limits[c]).mean())
    low, high = result.id.expected or (1, 0)
    assert 0 < low < 0.05 < high < 0.12
    assert result.id.as_expected
    read = json.loads(result.to_json())
    assert read["class_conditional"] is True
    assert read["id"]["predicted_class"]["dog"]["threshold"] == pytest.approx(float(limits[1]))
    shown = " ".join(str(result).split())
    assert "target 5 % of every class, expected" in shown
    assert "by predicted class" in shown


def test_nothing_is_expected_where_a_class_keeps_the_pooled_threshold() -> None:
    images, labels = two_classes()
    labels = np.where(np.arange(300) < 3, 2, labels)
    images[:3, 0, 0, 0] = 2
    result = guard.evaluate(pixel_guard(by_class()), id=(images, labels))
    assert (result.id.expected, result.id.as_expected) == (None, None)
    assert "not calibrated" not in str(result)
    assert "(target 5 % of every class)" in " ".join(str(result).split())


def test_the_calibration_error_is_that_of_the_probabilities(evaluation: Evaluation) -> None:
    """The guard is 80 % sure of everything and right on 90 %."""
    assert evaluation.id.calibration_error == pytest.approx(0.1)
    assert evaluation.to_dict()["id"]["expected_calibration_error"] == pytest.approx(0.1)
    assert "(ECE) 10.0 %" in " ".join(str(evaluation).split())


# ------------------------------------------------------------------------------------------------ what it prints


def test_the_table_names_everything_in_plain_text(evaluation: Evaluation) -> None:
    shown = str(evaluation)
    assert "\x1b" not in shown
    assert "accuracy 90.00 %" in shown
    assert f"flags {100 * evaluation.id.false_alarm_rate:.1f} % of in-distribution test images (target 5 %," in shown
    for name in ("far", "further", "near", "mean of near", "mean of far", "200 images"):
        assert name in shown
    assert f"{100 * evaluation.ood[0].metrics.auroc:.1f}" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_more_false_alarms_than_expected_are_said_aloud(calibration: Calibration) -> None:
    shifted = (pictures(np.zeros(200, int), normal_scores(200, 5, seed=8)), np.tile([0, 1], 100))
    assert "MORE than promised" in str(guard.evaluate(pixel_guard(calibration), id=shifted))
    quiet = (pictures(np.zeros(200, int), normal_scores(200, 1, seed=8)), np.tile([0, 1], 100))
    assert "fewer than promised" in str(guard.evaluate(pixel_guard(calibration), id=quiet))


def test_names_are_not_taken_for_markup(calibration: Calibration) -> None:
    data = (pictures(np.zeros(20, int), np.full(20, 4.0)), np.tile([0, 1], 10))
    result = guard.evaluate(pixel_guard(calibration), id=data, ood={"[red]x[/red]": data[0]}, bootstrap=0)
    assert "[red]x[/red]" in str(result)


def test_json_holds_the_numbers(evaluation: Evaluation) -> None:
    read = json.loads(evaluation.to_json())
    assert read == evaluation.to_dict()
    assert read["id"]["accuracy"] == 0.9
    assert read["ood"]["near"]["group"] == "near"
    assert read["ood"]["far"]["fpr_at_95_ood_tpr"] == evaluation.ood[0].metrics.fpr_at_95_ood_tpr
    assert read["ood"]["far"]["intervals"]["auroc"] == list(evaluation.ood[0].intervals["auroc"])
    assert read["target_false_alarm_rate"] == 0.05


def test_an_uncalibrated_guard_is_evaluated_without_a_target(answers: tuple[np.ndarray, ...]) -> None:
    labels, predicted, scores = answers
    result = guard.evaluate(pixel_guard(None), id=(pictures(predicted, scores), labels))
    assert result.id.false_alarm_rate == 0
    assert result.id.expected is None
    assert result.id.as_expected is None
    assert "not calibrated" in str(result)
    read = json.loads(result.to_json())
    assert read["threshold"] is None
    assert read["mean"] == {"near": None, "far": None}


# ------------------------------------------------------------------------------------------- which images, which labels


def test_labels_are_matched_by_class_name() -> None:
    labels, note = match_classes(np.array([0, 1, 1]), ("eel", "cat"), NAMES, "zoo")
    np.testing.assert_array_equal(labels, [2, 0, 0])
    assert note == ""


def test_arrays_without_names_are_class_indices_and_it_is_said() -> None:
    labels, note = match_classes(np.array([0, 1]), ("0", "1"), NAMES, "arrays")
    np.testing.assert_array_equal(labels, [0, 1])
    assert "class indices" in note


@pytest.mark.parametrize("names", [("cat", "wolf"), ("0", "1", "2", "3")])
def test_unknown_classes_are_refused_with_both_lists(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=rf"zoo has classes .*{names[-1]}.*the guard's are: cat, dog, eel"):
        match_classes(np.zeros(1, int), names, NAMES, "zoo")


def _training_data(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(9).integers(0, 3, count)
    return pictures(labels, normal_scores(count, 4, seed=10)), labels


def test_training_data_is_reduced_to_its_held_out_split(calibration: Calibration) -> None:
    images, labels = _training_data()
    loaded = sibling("guard.data").load((images, labels), preprocess=Preprocess(height=8, width=8))
    rows = sibling("guard.data").split(labels, seed=5, calibration=60, test=45)
    card = DataCard(
        name="mine", fingerprint=loaded.fingerprint, images=300, splits={k: len(v) for k, v in rows.items()}
    )
    g = pixel_guard(calibration, data=(card,), seed=5)
    result = guard.evaluate(g, id=(images, labels))
    assert result.id.images == 45
    assert "only the 45 images held out" in result.note
    np.testing.assert_array_equal(result.id.source.rows, rows["test"])
    np.testing.assert_array_equal(result.id.labels, labels[rows["test"]])
    first = guard.evaluate(g, id=(images, labels), max_images=10)
    np.testing.assert_array_equal(first.id.source.rows, rows["test"][:10])


def test_a_part_of_the_training_data_is_used_as_given_and_it_is_said(calibration: Calibration) -> None:
    images, labels = _training_data()
    loaded = sibling("guard.data").load((images, labels), preprocess=Preprocess(height=8, width=8))
    card = DataCard(name="mine", fingerprint=loaded.fingerprint, images=300, splits={"train": 300, "test": 0})
    g = pixel_guard(calibration, data=(card,))
    part = guard.evaluate(g, id=loaded.subset(np.arange(50)))
    assert part.id.images == 50
    assert "as it was given" in part.note
    whole = guard.evaluate(g, id=(images, labels))
    assert whole.id.images == 300
    assert "no test split held out" in whole.note


def test_other_data_is_used_whole_without_a_note(calibration: Calibration) -> None:
    chosen = id_test_images(pixel_guard(calibration, class_names=("0", "1", "2")).manifest, _training_data())
    assert (len(chosen.images), chosen.notes) == (300, ())


def test_max_images_takes_the_first_of_each_set(calibration: Calibration) -> None:
    images, labels = _training_data()
    result = guard.evaluate(pixel_guard(calibration), id=(images, labels), ood={"a": images}, max_images=30)
    assert (result.id.images, result.ood[0].images) == (30, 30)
    np.testing.assert_array_equal(result.id.labels, labels[:30])


# ------------------------------------------------------------------------------------------------- what is refused


def test_wrong_arguments_meet_one_clear_sentence(calibration: Calibration, tmp_path: Path) -> None:
    g, data = pixel_guard(calibration), _training_data(30)
    with pytest.raises(UnknownNameError, match=r"'textres'; did you mean 'textures'"):
        guard.evaluate(g, id=data, ood={"textures": data[0]}, near=["textres"])
    with pytest.raises(ConfigError, match="near must be a list"):
        guard.evaluate(g, id=data, ood={"a": data[0]}, near="a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ood must map names to images"):
        guard.evaluate(g, id=data, ood=[data[0]])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        guard.evaluate(g, id=data, out=tmp_path / "report.pdf")
    with pytest.raises(ConfigError, match="bootstrap must be at least 0"):
        guard.evaluate(g, id=data, bootstrap=-1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        guard.evaluate(g, id=data, batch_size=0)


def test_a_missing_package_names_the_extra(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    monkeypatch.setattr(sibling("guard.data"), "load", load)
    with pytest.raises(MissingExtraError, match=r"pyarrow .* pip install 'ood-guard\[train\]'"):
        guard.evaluate(pixel_guard(calibration), id="x.parquet")


def test_an_evaluation_of_arrays_needs_no_torch() -> None:
    """Loading what evaluates must not load what trains."""
    code = (
        "import sys, guard.evaluation.evaluate, guard.evaluation.report, guard.data.test_images, guard.data; "
        "heavy = {'torch', 'sklearn', 'scipy', 'pyarrow', 'datasets', 'onnxruntime'}; "
        "print(sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
