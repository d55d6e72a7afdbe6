"""Against scikit-learn, pair counting and the hand example of the papers' definitions."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from guard.errors import ConfigError, DataError, GuardError
from guard.evaluation import metrics


def _scores(kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    id_scores, ood_scores = generator.normal(size=501), generator.normal(1.0, 1.5, size=333)
    if kind == "ties":
        return np.round(id_scores, 1), np.round(ood_scores, 1)
    if kind == "heavy ties":
        return np.round(id_scores), np.round(ood_scores)
    if kind == "huge":
        return id_scores * 1e30, ood_scores * 1e30
    if kind == "float32 energies":
        return np.float32(-20 + id_scores), np.float32(-20 + ood_scores)
    if kind == "worse than chance":
        return ood_scores, id_scores
    if kind == "perfect":
        return id_scores, ood_scores + 100
    if kind == "one each":
        return id_scores[:1], ood_scores[:1]
    return id_scores, ood_scores


KINDS = ["plain", "ties", "heavy ties", "huge", "float32 energies", "worse than chance", "perfect", "one each"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_metrics_equal_scikit_learn(kind: str) -> None:
    id_scores, ood_scores = _scores(kind)
    scores = np.concatenate([id_scores, ood_scores]).astype(np.float64)
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    ours = metrics.detection_metrics(id_scores, ood_scores)
    assert ours.auroc == pytest.approx(roc_auc_score(is_ood, scores), abs=1e-12)
    assert ours.aupr_in == pytest.approx(average_precision_score(1 - is_ood, -scores), abs=1e-12)
    assert ours.aupr_out == pytest.approx(average_precision_score(is_ood, scores), abs=1e-12)
    fpr, tpr, _ = sklearn_roc_curve(1 - is_ood, -scores, drop_intermediate=False)
    assert ours.fpr_at_95_id_tpr == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)
    fpr, tpr, _ = sklearn_roc_curve(is_ood, scores, drop_intermediate=False)
    assert ours.fpr_at_95_ood_tpr == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_trapezoid_areas_equal_scikit_learn(kind: str) -> None:
    id_scores, ood_scores = _scores(kind)
    scores = np.concatenate([id_scores, ood_scores]).astype(np.float64)
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    for ours, labels, ranked in [(metrics.aupr_in, 1 - is_ood, -scores), (metrics.aupr_out, is_ood, scores)]:
        precision, recall, _ = precision_recall_curve(labels, ranked)
        assert ours(id_scores, ood_scores, area="trapezoid") == pytest.approx(auc(recall, precision), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_roc_curve_equals_scikit_learn(kind: str) -> None:
    id_scores, ood_scores = _scores(kind)
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    fpr, tpr, thresholds = sklearn_roc_curve(
        is_ood, np.concatenate([id_scores, ood_scores]).astype(np.float64), drop_intermediate=False
    )
    curve = metrics.roc_curve(id_scores, ood_scores)
    np.testing.assert_allclose(curve.false_alarms, fpr)
    np.testing.assert_allclose(curve.detected, tpr)
    # scikit-learn flags score >= t, a guard flags score > t: each of its thresholds is our previous one
    np.testing.assert_array_equal(curve.thresholds[:-1], thresholds[1:])
    for i in (0, len(curve.thresholds) // 2, -1):
        assert curve.detected[i] == np.mean(ood_scores > curve.thresholds[i])
        assert curve.false_alarms[i] == np.mean(id_scores > curve.thresholds[i])


def test_the_hand_example() -> None:
    """S_id = [3, 2, 1] and S_ood = [2, 0], where S = -ood_score: four wins, a tie and a loss."""
    id_scores, ood_scores = np.array([-3.0, -2, -1]), np.array([-2.0, 0])
    ours = metrics.detection_metrics(id_scores, ood_scores)
    assert ours.auroc == 4.5 / 6
    assert ours.fpr_at_95_id_tpr == 1 / 2  # all three ID need t = -1, which accepts the OOD at -2
    assert ours.fpr_at_95_ood_tpr == 2 / 3  # both OOD need t = -2, which flags the ID at -2 and -1
    assert ours.aupr_in == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert ours.aupr_out == pytest.approx((1 + 2 / 4) / 2)


def test_auroc_equals_counting_pairs() -> None:
    id_scores, ood_scores = _scores("heavy ties")
    wins = (ood_scores[:, None] > id_scores).mean() + 0.5 * (ood_scores[:, None] == id_scores).mean()
    assert metrics.auroc(id_scores, ood_scores) == pytest.approx(wins, abs=1e-14)


def test_swapping_the_lists_mirrors_the_metrics() -> None:
    id_scores, ood_scores = _scores("ties")
    assert metrics.auroc(ood_scores, id_scores) == pytest.approx(1 - metrics.auroc(id_scores, ood_scores), abs=1e-14)
    assert metrics.aupr_in(-ood_scores, -id_scores) == pytest.approx(metrics.aupr_out(id_scores, ood_scores))
    assert metrics.fpr_at_95_id_tpr(-ood_scores, -id_scores) == metrics.fpr_at_95_ood_tpr(id_scores, ood_scores)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_only_the_order_of_scores_matters(scale: float) -> None:
    id_scores, ood_scores = _scores("ties")
    assert metrics.detection_metrics(id_scores * scale, ood_scores * scale) == metrics.detection_metrics(
        id_scores, ood_scores
    )


def test_ninety_five_percent_of_twenty_is_nineteen() -> None:
    """0.95 * n must not be rounded up in floats: 19 of 20 accepted are enough."""
    for n in (20, 40, 60, 100, 140, 1000, 10_000):
        id_scores = np.arange(n, dtype=float)
        last_needed = n * 95 // 100 - 1
        assert metrics.fpr_at_95_id_tpr(id_scores, np.array([last_needed + 0.5])) == 0
        assert metrics.fpr_at_95_id_tpr(id_scores, np.array([float(last_needed)])) == 1


def test_the_tpr_of_the_fprs_is_an_argument() -> None:
    id_scores, ood_scores = np.arange(10.0), np.array([4.5, 7.5])
    assert metrics.fpr_at_95_id_tpr(id_scores, ood_scores, tpr=0.5) == 0
    assert metrics.fpr_at_95_id_tpr(id_scores, ood_scores, tpr=0.6) == 0.5
    assert metrics.fpr_at_95_ood_tpr(id_scores, ood_scores, tpr=0.5) == 0.2


def test_accuracy() -> None:
    assert metrics.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    with pytest.raises(DataError, match="as many predictions as labels"):
        metrics.accuracy(np.array([1]), np.array([1, 2]))


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 50), (50, 50), (7, 50), (9_312, 10_000)])
def test_the_wilson_interval_equals_scipy(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(DataError, match=r"ood_scores holds 1 of 3 .* at index 1"):
        metrics.auroc(np.ones(2), np.array([0, bad, 1]))
    with pytest.raises(DataError, match="id_scores holds 1 of 2"):
        metrics.bootstrap(np.array([bad, 0]), np.ones(2))


def test_empty_lists_and_wrong_shapes_are_refused() -> None:
    for scores in (np.zeros(0), np.zeros((2, 2))):
        with pytest.raises(DataError, match="non-empty list"):
            metrics.detection_metrics(scores, np.ones(3))
    with pytest.raises(GuardError, match="between 0 and 1"):
        metrics.fpr_at_95_id_tpr(np.ones(2), np.ones(2), tpr=95)
    with pytest.raises(ConfigError, match="trapezoid"):
        metrics.aupr_in(np.ones(2), np.ones(2), area="simpson")  # type: ignore[arg-type]


def test_a_bootstrap_resample_is_the_metrics_of_the_resampled_scores() -> None:
    id_scores, ood_scores = _scores("ties")
    ours = metrics.bootstrap(id_scores, ood_scores, resamples=60, seed=3)
    generator = np.random.default_rng(3)
    id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
    slow = [
        metrics.detection_metrics(
            id_sorted[generator.integers(0, len(id_scores), len(id_scores))],
            ood_sorted[generator.integers(0, len(ood_scores), len(ood_scores))],
        )
        for _ in range(60)
    ]
    for name in metrics.METRICS:
        low, high = np.quantile([getattr(s, name) for s in slow], [0.025, 0.975])
        assert ours[name] == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_the_auroc_interval_has_the_width_that_theory_gives() -> None:
    """Hanley and McNeil's standard error for two normals; 1000 resamples leave about 5 % of noise on the ends."""
    generator = np.random.default_rng(0)
    id_scores, ood_scores = generator.normal(size=2000), generator.normal(1, 1, size=1000)
    area = metrics.auroc(id_scores, ood_scores)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 999 * (q1 - area**2) + 1999 * (q2 - area**2)) / (1000 * 2000)
    low, high = metrics.bootstrap(id_scores, ood_scores)["auroc"]
    assert low < area < high
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    id_scores, ood_scores = _scores("plain")
    first = metrics.bootstrap(id_scores, ood_scores, resamples=20, seed=1)
    assert first == metrics.bootstrap(id_scores[::-1], ood_scores[::-1], resamples=20, seed=1)
    assert first != metrics.bootstrap(id_scores, ood_scores, resamples=20, seed=2)
    with pytest.raises(ConfigError, match="at least 1"):
        metrics.bootstrap(id_scores, ood_scores, resamples=0)
