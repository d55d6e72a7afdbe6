"""Boundary sampling against the definition, one number at a time; the queue behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from guard.errors import ConfigError
from guard.heads import unit
from tests.references import naive_boundary
from tests.references.published_boundary import published_rows
from train.outliers.base import IDBatch
from train.outliers.features.knn_boundary import (
    BoundaryOptions,
    KNNBoundary,
    boundary_outliers,
    candidate_kth,
    kept_candidates,
    kth_of_bank,
    make_candidates,
)

NOTHING = IDBatch(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
SMALL = BoundaryOptions(k=9, select=12, pick=3, n_noise=50, sigma=0.2, keep=10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank_of(n: int = 80, width: int = 6, seed: int = 0) -> Tensor:
    """Unit rows around one direction, a few of them far off."""
    x = torch.randn(n, width, generator=generator(seed)) * torch.linspace(0.2, 0.8, n)[:, None]
    return unit(x + torch.eye(width)[0])


def kth(queries: Tensor, bank: Tensor, k: int) -> np.ndarray:
    return naive_boundary.kth_distances(queries.double().numpy(), bank.double().numpy(), k)


# ----------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("k", [1, 2, 9, 80])
def test_kth_of_the_bank_is_the_naive_distance(k: int) -> None:
    bank = bank_of()
    np.testing.assert_allclose(kth_of_bank(bank, k), kth(bank, bank, k), atol=2e-6)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("k", [1, 9, 80])
def test_kth_of_candidates_is_the_naive_distance(k: int, renormalise: bool) -> None:
    bank, noise = bank_of(), torch.randn(50, 6, generator=generator(3))
    options = SMALL.model_copy(update={"k": k, "renormalise": renormalise})
    found = candidate_kth(bank[:3], noise, bank, options)
    candidates = (bank[:3, None].double() + 0.2 * noise.double()).flatten(0, 1)
    if renormalise:
        candidates = unit(candidates)
    np.testing.assert_allclose(found.flatten(), kth(candidates, bank, k), rtol=1e-4, atol=2e-6)


def test_bfloat16_products_hardly_move_the_distances() -> None:
    bank, noise = bank_of(400, 64), torch.randn(300, 64, generator=generator(3))
    options = BoundaryOptions(k=120, select=80, n_noise=300)
    exact = candidate_kth(bank[:2], noise, bank, options)
    rounded = candidate_kth(bank[:2], noise, bank, options, torch.bfloat16)
    assert not exact.equal(rounded)
    assert (exact - rounded).abs().max() < 0.02 * exact.std()
    exact, rounded = kth_of_bank(bank, 120), kth_of_bank(bank, 120, torch.bfloat16)
    assert (exact - rounded).abs().max() < 0.05 * exact.std()


# ---------------------------------------------------------------------------------------------------------- selection


def test_every_centre_keeps_its_own_farthest_candidates_and_the_published_code_does_not() -> None:
    """With keep=1 what is kept of a centre is the argmax of kth over that centre's candidates."""
    bank, noise = bank_of(), torch.randn(50, 6, generator=generator(3))
    one = SMALL.model_copy(update={"keep": 1})
    distances = candidate_kth(bank[:3], noise, bank, one)
    candidates = make_candidates(bank[:3], noise, 0.2)
    best = [int(np.argmax(kth(of_one, bank, 9))) for of_one in candidates]
    kept = kept_candidates(distances, one)
    assert kept.tolist() == [50 * centre + j for centre, j in enumerate(best)]
    scrambled = published_rows(distances.tolist(), 1)
    assert len(scrambled) == len(kept)
    assert scrambled != kept.tolist()


def test_the_public_copies_keep_rows_whose_distance_they_never_looked_at() -> None:
    """Ours are the best of each centre's own candidates; theirs are so by chance, about as often as any others."""
    distances = torch.randn(3, 50, generator=generator())
    options = SMALL
    ours = kept_candidates(distances, options).tolist()
    theirs = published_rows(distances.tolist(), options.keep)
    assert len(ours) == len(set(ours)) == len(set(theirs)) == 30
    value = distances.flatten()
    cut = distances.topk(10, dim=1).values[:, -1].repeat_interleave(10)
    assert (value[ours] >= cut).all()
    assert (value[theirs] >= cut).float().mean() < 0.5
    assert set(ours) != set(theirs)


def test_with_one_centre_the_public_copies_keep_what_was_meant() -> None:
    distances = torch.randn(1, 50, generator=generator())
    kept = kept_candidates(distances, SMALL.model_copy(update={"pick": 1})).tolist()
    assert kept == published_rows(distances.tolist(), SMALL.keep)


@pytest.mark.parametrize("inlier", [False, True])
def test_offline_outliers_are_the_definitions(inlier: bool) -> None:
    """Step by step with the same draws, and on features that are not of unit length."""
    features, options = 7 * bank_of(), SMALL.model_copy(update={"inlier": inlier, "repeats": 2})
    found = boundary_outliers(features, options, generator(5))
    bank, draws = unit(features), generator(5)
    boundary = naive_boundary.boundary_rows(bank.double().numpy(), 9, 12, inlier)
    expected = []
    for _ in range(2):
        centres = bank[boundary[torch.randperm(12, generator=draws)[:3].numpy()]]
        noise = torch.randn(50, 6, generator=draws)
        for centre in centres:
            candidates = centre + 0.2 * noise
            order = np.argsort(kth(candidates, bank, 9) * (1 if inlier else -1))
            expected.append(candidates[order[:10].copy()])
    assert len(found) == options.outliers == 60
    torch.testing.assert_close(found, torch.cat(expected))


def test_renormalised_outliers_have_unit_length_and_others_have_not() -> None:
    on, off = (boundary_outliers(bank_of(), SMALL.model_copy(update={"renormalise": r}), generator()) for r in (1, 0))
    torch.testing.assert_close(on.norm(dim=-1), torch.ones(30))
    assert (off.norm(dim=-1) - 1).abs().max() > 0.1


def test_outliers_are_farther_than_the_class_and_inliers_are_not() -> None:
    bank = bank_of(300, 16)
    own = kth(bank, bank, 9)
    out, inside = (
        kth(boundary_outliers(bank, SMALL.model_copy(update={"inlier": i}), generator()), bank, 9)
        for i in (False, True)
    )
    assert np.median(out) > np.quantile(own, 0.9)
    assert np.median(inside) < np.median(out) / 2


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="pick must be at most select=2, got 3"):
        BoundaryOptions(pick=3, select=2)
    with pytest.raises(ValidationError, match="keep must be at most n_noise=5, got 6"):
        BoundaryOptions(keep=6, n_noise=5)
    with pytest.raises(ConfigError, match=r"k must be in 1\.\.80"):
        boundary_outliers(bank_of(), BoundaryOptions(select=20), generator())
    with pytest.raises(ConfigError, match="k=9 and select=12 must be at most the 11 features"):
        KNNBoundary(2, 6, queue=11, options=SMALL)


# ------------------------------------------------------------------------------------------------------------- online


def filled(scale: float = 1.0, **options: object) -> KNNBoundary:
    """40 features of each of three classes; class c lies around axis c."""
    made = KNNBoundary(3, 6, queue=40, options=SMALL, **options)  # type: ignore[arg-type]
    labels = torch.arange(120) % 3
    spread = 0.2 * torch.randn(len(labels), 6, generator=generator(8))
    made.observe(scale * unit(torch.eye(6)[labels] + spread), labels)
    return made


@pytest.mark.parametrize(("classes", "expected"), [(None, 3), (2, 2), (1, 1), (7, 3)])
def test_each_step_draws_around_that_many_classes(classes: int | None, expected: int) -> None:
    made = filled(classes=classes)
    found = made.sample(NOTHING, generator())
    assert found.data.shape == (expected * 30, 6)
    assert found.ready
    assert found.parents is not None
    assert len(set(found.parents.flatten().tolist())) == expected
    nearest = (found.data @ torch.eye(6)[:3].T).argmax(-1)
    assert (nearest == found.parents[:, 0]).float().mean() > 0.6
    if expected == 1:
        drawn = {int(made.sample(NOTHING, generator(seed)).parents[0]) for seed in range(30)}
        assert drawn == {0, 1, 2}


def test_outliers_have_the_length_of_their_features() -> None:
    one, ten = (filled(scale=scale).sample(NOTHING, generator()).data for scale in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one, rtol=1e-4, atol=1e-4)


def test_a_pool_is_one_bank() -> None:
    found = filled(pooled=True).sample(NOTHING, generator())
    assert found.data.shape == (30, 6)
    assert found.parents is None


def test_nothing_is_ready_before_every_queue_is_full_and_full_they_stay() -> None:
    made = KNNBoundary(2, 6, queue=12, options=SMALL)
    made.observe(torch.randn(12, 6, generator=generator()), torch.zeros(12, dtype=torch.int64))
    early = made.sample(NOTHING, generator())
    assert not early.ready
    assert early.data.isfinite().all()  # NaN times the 0 of "not ready" would be NaN
    made.observe(torch.randn(12, 6, generator=generator(1)), torch.ones(12, dtype=torch.int64))
    assert made.sample(NOTHING, generator()).ready
    kept = made.queue.features.clone()
    for _ in range(3):
        made.start_epoch(5, generator())  # a new epoch empties nothing
        assert made.queue.features.equal(kept)
        assert made.sample(NOTHING, generator()).ready
    assert (kept.norm(dim=-1) > 0).all()


def test_the_queue_survives_a_restart() -> None:
    made = filled()
    again = KNNBoundary(3, 6, queue=40, options=SMALL)
    again.load_state_dict(made.state_dict())
    assert again.sample(NOTHING, generator(4)).data.equal(made.sample(NOTHING, generator(4)).data)
