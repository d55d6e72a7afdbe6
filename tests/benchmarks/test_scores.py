"""What the benchmark of scores writes down, on numbers small enough to check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bank_search, scores
from benchmarks.independent_scores import CHECKS, FORMULA, PYTORCH_OOD, Fitting, Taken
from guard.latency.interleave import Timing
from guard.scores import create_score

ROOT = Path(__file__).parents[2]


def taken(count: int, shift: float, seed: int) -> Taken:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 128, generator=g).abs() + shift
    return Taken(features, features[:, :4] * 2, torch.arange(count) % 4)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    once = {"seconds": 0.5, "ratio": 0.25, "low": 0.2, "high": 0.3}
    monkeypatch.setattr(scores, "timed", lambda calls: dict.fromkeys(calls, once))
    monkeypatch.setattr(scores, "timed_fits", lambda calls: dict.fromkeys(calls, once))
    monkeypatch.setattr(scores, "peak_above", lambda call: 1.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["energy", "knn", "mahalanobis", "cosine"])
def test_a_row_compares_equal_scores(name: str) -> None:
    fit = Fitting(taken(700, 0, 0), 2 * torch.eye(4, 128), torch.zeros(4))
    sets = {"test": taken(300, 0, 1), "far": taken(200, 3, 2)}
    for check in scores.compared_checks():
        if check.score != name:
            continue
        row = scores.compare(check, fit, sets)
        assert row["ours"]["score_s_per_10000"] == pytest.approx(0.5 * 10_000 / 300)
        if check.against == FORMULA:
            assert "theirs" not in row
            continue
        assert row["auroc_difference"] < 1e-4
        assert row["score_ratio"]["ratio"] == 0.25


def test_every_score_of_pytorch_ood_is_compared_with_it_and_no_other_twice() -> None:
    rows = scores.compared_checks()
    alone = [check.score for check in rows if check.against == FORMULA]
    assert len(alone) == len(set(alone))
    assert not set(alone) & {check.score for check in rows if check.against == PYTORCH_OOD}
    assert {check.score for check in rows} == {check.score for check in CHECKS}


@pytest.mark.usefixtures("quick")
def test_the_report_shows_both_where_they_differ() -> None:
    def side(auroc: float) -> dict[str, object]:
        numbers = {"auroc": auroc, "fpr_at_95_id_tpr": 0.5, "fpr_at_95_ood_tpr": 0.25}
        return {
            "ood": {"far": numbers},
            "fit_s": 1.0,
            "score_s_per_10000": 0.002,
            "fit_mib": 3.0,
            "score_mib": 4.0,
        }

    ratio = {"ratio": 0.5, "low": 0.4, "high": 0.6}
    row = {"score": "knn", "options": {"k": 1}, "ours": side(0.9), "theirs": side(0.91), "score_ratio": ratio}
    line = scores.score_table([row]).splitlines()[-1]
    assert "90.00 / 91.00" in line
    assert "0.50 (0.40-0.60)" in line
    row["theirs"] = side(0.90005)
    assert "| 90.00 |" in scores.score_table([row]).splitlines()[-1]


def test_a_share_is_our_time_over_theirs() -> None:
    timings = {"ours": Timing(1.0, 1.0, 1.0, 1.0), "faiss flat": Timing(4.0, 4.0, 2.0, 5.0)}
    share = bank_search._shares(timings, "knn", 256)["shares"]["faiss flat"]
    assert share == {"share": 0.25, "low": 0.2, "high": 0.5, "goal": 0.85}


def test_the_exact_mahalanobis_of_the_table() -> None:
    fitting = taken(600, 0, 0)
    labels = torch.arange(600) % bank_search.CLASSES
    score = create_score("mahalanobis", shrinkage=0.0).fit(fitting.features, torch.zeros(600, 10), labels)
    queries = taken(50, 1, 1).features
    exact = bank_search._exact_mahalanobis(fitting.features, labels, queries)
    np.testing.assert_allclose(score(queries, queries[:, :10]).numpy(), exact.numpy(), rtol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_peak_is_what_was_held_at_the_worst_moment() -> None:
    """In a process of its own: where much was held before, a library keeps what is freed."""
    script = """
import numpy as np
from benchmarks.memory import peak_above

def hold():
    first = np.ones(40 * 2**17)  # 40 MiB, gone before the next
    total = int(first[0])
    del first
    return total + int(np.ones(100 * 2**17)[0])

print(peak_above(hold), peak_above(lambda: None))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    held, nothing = map(float, run.stdout.split())
    assert 95 < held < 130
    assert nothing < 5
