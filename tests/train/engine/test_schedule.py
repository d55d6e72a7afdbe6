"""The learning rate over a training."""

from __future__ import annotations

import pytest

from train.engine.schedule import warm_cosine


def test_the_schedule_rises_linearly_and_falls_by_half_a_cosine() -> None:
    assert warm_cosine(0.0, 0.1) == 1e-3  # never quite nothing
    assert warm_cosine(0.05, 0.1) == pytest.approx(0.5)
    assert warm_cosine(0.1, 0.1) == pytest.approx(1)
    assert warm_cosine(0.55, 0.1) == pytest.approx(0.5)
    assert warm_cosine(1.0, 0.1) == pytest.approx(0, abs=1e-12)
    assert warm_cosine(0.0, 0.0) == 1
