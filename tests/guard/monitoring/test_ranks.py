from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from guard.monitoring.ranks import MOST_CELLS, Reference, p_values, uniforms
from tests.references.drift import urn_p_values


def test_p_values_are_those_of_the_definition() -> None:
    random = np.random.default_rng(0)
    reference, stream, u = random.normal(size=30), random.normal(size=80), random.random(80)
    kept = Reference(reference)
    urn = kept.balls.copy()
    cells = kept.cells(stream, np.zeros(80))
    parts = [p_values(cells[i:j], u[i:j], urn) for i, j in itertools.pairwise((0, 1, 33, 80))]
    np.testing.assert_allclose(np.concatenate(parts), urn_p_values(reference, stream, u), rtol=1e-12)
    assert urn.sum() == 31 + 80


def test_every_order_of_five_scores_gives_uniform_p_values() -> None:
    """Counted out: three calibration scores, two images, all 120 orders. The cell of each image has the probability
    that its interval of p-values is long, also given where the first one fell."""
    lengths: dict[tuple[int, int], Fraction] = {}
    found: Counter[tuple[int, int]] = Counter()
    for order in itertools.permutations(range(5)):
        reference = Reference(np.array(order[:3]))
        urn = reference.balls.copy()
        a, b = reference.cells(np.array(order[3:]), np.zeros(2)).tolist()
        first, total = Fraction(int(urn[a])), int(urn.sum())
        p_values(np.array([a]), np.zeros(1), urn)
        lengths[a, b] = first / total * Fraction(int(urn[b])) / (total + 1)
        found[a, b] += 1
    assert {pair: Fraction(n, 120) for pair, n in found.items()} == lengths
    assert sum(lengths.values()) == 1


@pytest.mark.parametrize("kind", ["continuous", "ten values", "one value", "more than the cells"])
def test_p_values_are_uniform_and_independent(kind: str) -> None:
    """Calibration set and stream are drawn anew each time: exchangeable, whatever ties there are."""
    random = np.random.default_rng(3)
    n, length = (MOST_CELLS * 3 + 7, 60) if kind == "more than the cells" else (40, 60)
    all_p = np.empty((300, length))
    for row in range(300):
        scores = random.normal(size=n + length)
        if kind == "ten values":
            scores = scores.round(0)
        if kind == "one value":
            scores = np.zeros_like(scores)
        reference = Reference(scores[:n], seed=row)
        random_numbers = uniforms(row, 0, length)
        cells = reference.cells(scores[n:], random_numbers[:, 0])
        all_p[row] = p_values(cells, random_numbers[:, 1], reference.balls.copy())
    assert stats.kstest(all_p.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(all_p[:, :-1].ravel(), all_p[:, 1:].ravel())[0, 1]) < 0.04
    # averages over a stream vary as those of independent numbers do, which those of a fixed calibration set do not
    assert stats.kstest((all_p.mean(1) - 0.5) * np.sqrt(12 * length), "norm").pvalue > 1e-3


def test_p_values_of_a_fixed_calibration_set_would_fail_this() -> None:
    random = np.random.default_rng(3)
    means = []
    for _ in range(300):
        reference, stream = np.sort(random.normal(size=40)), random.normal(size=60)
        means.append(((1 + 40 - np.searchsorted(reference, stream)) / 41).mean())
    assert stats.kstest((np.array(means) - 0.5) * np.sqrt(12 * 60), "norm").pvalue < 1e-4


def test_random_numbers_belong_to_images_not_to_batches() -> None:
    whole = uniforms(5, 100, 50)
    np.testing.assert_array_equal(np.concatenate([uniforms(5, 100, 20), uniforms(5, 120, 30)]), whole)
    assert not np.array_equal(uniforms(6, 100, 50), whole)
    assert whole.min() >= 0
    assert whole.max() < 1


def test_the_largest_score_has_the_smallest_p_value() -> None:
    reference = Reference(np.arange(99))
    cells = reference.cells(np.array([1e9, -1e9, np.inf, -np.inf]), np.zeros(4))
    assert cells.tolist() == [99, 0, 99, 0]
    assert p_values(cells[:1], np.array([0.5]), reference.balls.copy())[0] == pytest.approx(0.005)
