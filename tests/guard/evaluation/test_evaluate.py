"""`guard.evaluate` on a guard whose answers are written into the pixels, so every number is known beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import guard
from guard.calibration.by_class import calibrate_by_class
from guard.calibration.conformal import flag_count_interval
from guard.errors import ConfigError, MissingExtraError, UnknownNameError
from guard.evaluation import metrics
from guard.evaluation.result import Evaluation
from guard.manifest import Calibration
from tests.guard.evaluation.pixel_guard import normal_scores, pictures, pixel_guard, training_data


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


# ------------------------------------------------------------------------------------------------- what is refused


def test_wrong_arguments_meet_one_clear_sentence(calibration: Calibration, tmp_path: Path) -> None:
    g, data = pixel_guard(calibration), training_data(30)
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


def test_a_missing_package_names_the_extra(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"pyarrow.* pip install 'ood-guard\[train\]'"):
        guard.evaluate(pixel_guard(calibration), id=path)


def test_an_evaluation_of_arrays_needs_no_torch() -> None:
    """Loading what evaluates must not load what trains."""
    code = (
        "import sys, guard.evaluation.evaluate, guard.evaluation.report, guard.data.test_images, guard.data; "
        "heavy = {'torch', 'sklearn', 'scipy', 'pyarrow', 'datasets', 'onnxruntime'}; "
        "print(sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
