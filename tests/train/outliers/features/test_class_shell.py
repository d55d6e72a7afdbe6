"""Shells against bisection, and what the sampler draws from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.references import naive_shell as reference
from train.outliers.base import IDBatch
from train.outliers.features.class_shell import ClassShell, ShellOptions, shell, spread

NOTHING = IDBatch(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
WIDTH = 8


def features(n: int, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """With variances from 10 to 0.1, turned, float64."""
    g = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(
        torch.randn(width, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    )
    scale = torch.logspace(1, -1, width, dtype=torch.float64).sqrt()
    return (torch.randn(n, width, generator=g, dtype=torch.float64) * scale) @ turn + 3


@pytest.mark.parametrize(("n", "width"), [(60, 8), (6, 12)])
@pytest.mark.parametrize("shrink", [0.05, 1.0])
def test_the_shell_is_found_outright_where_bisection_finds_it(n: int, width: int, shrink: float) -> None:
    """With fewer features than dimensions, too."""
    fitted, held = features(n, width), features(20, width, seed=1)
    options = ShellOptions(shrink=shrink)
    vectors, inner, outer = shell(fitted, held, options)
    off = ~inner.isnan()
    np.testing.assert_array_equal(off, ~outer.isnan())
    expected = reference.off_manifold(fitted.numpy(), 0.9)
    assert off.sum() == len(expected)
    mine = vectors[off].numpy()
    np.testing.assert_allclose(mine.T @ mine, expected.T @ expected, atol=1e-6)  # they span the same
    for v, low, high in zip(mine, inner[off].tolist(), outer[off].tolist(), strict=True):
        for quantile, found in ((0.95, low), (0.99, high)):
            assert found == pytest.approx(reference.length(v, fitted.numpy(), held.numpy(), shrink, quantile), rel=1e-4)


@pytest.mark.parametrize("explained", [0.01, 0.5, 0.9, 0.9999])
def test_the_directions_are_those_outside_the_explained_variance(explained: float) -> None:
    fitted = features(60)
    _, inner, _ = shell(fitted, fitted, ShellOptions(explained=explained))
    assert (~inner.isnan()).sum() == len(reference.off_manifold(fitted.numpy(), explained))


def filled(count: int = 400, queue: int = 50, **options: float) -> ClassShell:
    """Two classes with full queues of different features."""
    made = ClassShell(count, 2, WIDTH, ShellOptions(queue=queue, directions=5, **options))
    for c in range(2):
        made.observe(features(queue, seed=c).float() * (1 + c), torch.full((queue,), c))
    return made


def test_outliers_lie_in_the_shell_of_their_class_on_both_sides() -> None:
    made = filled()
    made.start_epoch(1, torch.Generator().manual_seed(0))
    outliers = made.sample(NOTHING, torch.Generator().manual_seed(0))
    assert outliers.data.shape == (400, WIDTH)
    assert bool(outliers.ready)
    assert outliers.parents is not None
    assert 150 < outliers.parents.sum() < 250
    for c in range(2):
        whole = made.queue.features[c].double().numpy()
        held, fitted = whole[::5], np.delete(whole, slice(None, None, 5), axis=0)
        low, high = np.quantile([reference.distance(row, fitted, 0.05) for row in held], [0.95, 0.99])
        away = outliers.data[outliers.parents[:, 0] == c].double().numpy() - whole.mean(0)
        distances = [reference.distance(fitted.mean(0) + row, fitted, 0.05) for row in away]
        assert low * 0.999 < min(distances)
        assert max(distances) < high * 1.001
        assert np.quantile(distances, 0.9) > low + 0.5 * (high - low)
        off = reference.off_manifold(fitted, 0.9)
        np.testing.assert_allclose(away @ off.T @ off, away, atol=1e-4)
        first = away @ (away[0] / np.linalg.norm(away[0]))
        assert (first > 1e-3).any()
        assert (first < -1e-3).any()


def test_means_are_those_of_the_step() -> None:
    made = filled()
    made.start_epoch(1, torch.Generator().manual_seed(0))
    before = made.sample(NOTHING, torch.Generator().manual_seed(0)).data
    for c in range(2):
        made.observe(features(50, seed=c).float() * (1 + c) + 7, torch.full((50,), c))
    after = made.sample(NOTHING, torch.Generator().manual_seed(0)).data
    torch.testing.assert_close(after, before + 7, rtol=1e-4, atol=1e-4)


def test_nothing_counts_before_every_queue_was_full_when_the_epoch_began() -> None:
    made = ClassShell(4, 2, WIDTH, ShellOptions(queue=20))
    made.observe(features(20).float(), torch.zeros(20, dtype=torch.int64))
    made.start_epoch(1, torch.Generator().manual_seed(0))
    made.observe(features(20).float(), torch.ones(20, dtype=torch.int64))
    outliers = made.sample(NOTHING, torch.Generator().manual_seed(0))
    assert outliers.ready is not None
    assert not outliers.ready
    assert outliers.data.isfinite().all()
    made.start_epoch(1, torch.Generator().manual_seed(0))
    assert bool(made.sample(NOTHING, torch.Generator().manual_seed(0)).ready)


def test_coordinates_that_never_vary_keep_everything_finite() -> None:
    """As those of a dead unit; and features that are all the same."""
    fitted = features(30)
    fitted[:, :3] = 0
    for given in (fitted, torch.ones(30, WIDTH, dtype=torch.float64)):
        vectors, inner, outer = shell(given, given[:10], ShellOptions())
        off = ~inner.isnan()
        assert vectors.isfinite().all()
        assert off.any()
        assert outer[off].isfinite().all()


def test_a_checkpoint_holds_the_queue_alone_and_finds_the_same_shells() -> None:
    made, again = filled(), ClassShell(400, 2, WIDTH, ShellOptions(queue=50, directions=5))
    again.load_state_dict(made.state_dict())
    assert all(key.startswith("queue.") for key in made.state_dict())
    drawn = []
    for each in (made, again):
        each.start_epoch(1, torch.Generator().manual_seed(3))
        drawn.append(each.sample(NOTHING, torch.Generator().manual_seed(4)).data)
    assert drawn[0].equal(drawn[1])


def test_a_shell_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"low must be below high, got 0\.99 and 0\.95; swap the two"):
        ShellOptions(low=0.99, high=0.95)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5])
def test_the_share_that_is_held_out_is_the_one_that_was_asked_for(share: float) -> None:
    held = spread(1000, share)
    assert held.sum().item() == pytest.approx(1000 * share, abs=1)
    gaps = held.nonzero().flatten().diff()
    assert gaps.max() - gaps.min() <= 1  # evenly


def test_a_half_and_a_quarter_are_every_second_and_every_fourth() -> None:
    assert spread(8, 0.5).tolist() == [True, False] * 4
    assert spread(8, 0.25).tolist() == [True, False, False, False] * 2
