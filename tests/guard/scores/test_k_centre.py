"""Greedy k-centre selection against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from guard.scores.k_centre import k_centre


def radius(rows: np.ndarray, taken: list[int]) -> float:
    """The covering radius: the largest distance of a row to its nearest taken one."""
    return float(np.linalg.norm(rows[:, None] - rows[None, taken], axis=-1).min(1).max())


def slow_greedy(rows: np.ndarray, count: int, first: int) -> list[int]:
    taken = [first]
    while len(taken) < count:
        distances = [min(np.linalg.norm(row - rows[t]) for t in taken) for row in rows]
        taken.append(int(np.argmax(distances)))
    return taken


def test_against_brute_force_greedy() -> None:
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 100
    taken = k_centre(rows, 30, seed=3).tolist()
    assert taken == slow_greedy(rows.double().numpy(), 30, taken[0])


def test_the_covering_radius_is_at_most_twice_the_best() -> None:
    rows = torch.randn(14, 2, generator=torch.Generator().manual_seed(1))
    x = rows.double().numpy()
    for count in (2, 3, 4):
        best = min(radius(x, list(some)) for some in itertools.combinations(range(14), count))
        for seed in range(5):
            assert radius(x, k_centre(rows, count, seed).tolist()) <= 2 * best + 1e-6


def test_it_covers_what_a_uniform_sample_misses() -> None:
    g = torch.Generator().manual_seed(2)
    rows = torch.cat([torch.randn(2000, 4, generator=g), 30 + torch.randn(5, 4, generator=g)])
    x = rows.double().numpy()
    uniform = torch.randperm(2005, generator=g)[:40].tolist()
    assert radius(x, k_centre(rows, 40).tolist()) < 0.5 * radius(x, uniform)


def test_the_seed_draws_the_first() -> None:
    rows = torch.randn(300, 3, generator=torch.Generator().manual_seed(3))
    assert k_centre(rows, 20, seed=1).equal(k_centre(rows, 20, seed=1))
    assert len({int(k_centre(rows, 1, seed=s)) for s in range(20)}) > 10


def test_no_row_is_taken_twice_even_among_copies() -> None:
    rows = torch.eye(3).repeat(4, 1)
    taken = k_centre(rows, 12).tolist()
    assert sorted(taken) == list(range(12))
    assert {tuple(rows[i].tolist()) for i in taken[:3]} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
