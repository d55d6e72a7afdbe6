"""Prompt tuning against one torch.optim.Adam per image, one call of the network at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.outliers.conditioning.solvable_diffusion import (
    CLASSES,
    SIDE,
    Cramped,
    SolvableDiffusion,
    generators,
    solvable,
)
from train.engine.adaptive_batches import Batches
from train.generators.diffusion import DiffusionOptions
from train.outliers.conditioning.prompt_tuning import (
    TOKEN_RMS,
    EmbedOptions,
    conditioning_scale,
    drawn_noise,
    planned,
    row_batches,
    time_grid,
    time_shares,
    tuned,
)

BUILT_IN = DiffusionOptions()


def latents(n: int) -> Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def one_by_one(
    diffusion: SolvableDiffusion,
    z: Tensor,
    classes: Tensor,
    options: EmbedOptions,
    scale: float,
    shares: Tensor | None = None,
) -> Tensor:
    """The definition: an optimizer per image, and every (t, eps) by itself."""
    p = np.full(50, 1 / 50) if shares is None else shares.numpy()
    made = []
    for i, generator in enumerate(generators(len(z))):
        anchor = diffusion.condition(classes[i : i + 1])
        e = torch.nn.Parameter(anchor.clone())
        optimizer = torch.optim.Adam([e], lr=options.lr * scale)
        plan = planned(options, generator)
        for step in range(options.iterations):
            noises = drawn_noise((1, SIDE, SIDE), options, generator)
            loss = options.prior * ((e - anchor) / scale).square().sum()
            for u, noise in zip(plan[step].double().numpy(), noises, strict=True):
                k = next(k for k in range(50) if u < p[: k + 1].sum() or k == 49)
                time = time_grid(diffusion.times)[k].view(1)
                one = diffusion.noise_loss(z[i : i + 1], e, classes[i : i + 1], times=time, noise=noise[None])
                loss = loss + one.sum() / (50 * p[k]) / options.pairs
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        made.append(e.detach()[0])
    return torch.stack(made)


@pytest.mark.parametrize(
    "more",
    [
        {"times": "random"},
        {"prior": 5.0},
        {"batch_size": 8},  # pairs of two images
        {"batch_size": 4},  # not even one image's
        {"times": "stratified"},
        {"noise": "antithetic", "pairs": 5},
    ],
)
@pytest.mark.parametrize("uneven", [False, True])
def test_a_batch_equals_an_optimizer_per_image(more: dict[str, Any], uneven: bool) -> None:
    options = EmbedOptions(**{"pairs": 6, "iterations": 4, "lr": 1e-2, **more})
    classes = torch.tensor([0, 1, 2, 2, 0])
    shares = torch.linspace(5, 1, 50, dtype=torch.float64) / 150 if uneven else None
    e, _ = tuned(solvable(), latents(5), classes, generators(5), options, 7.0, shares)
    expected = one_by_one(solvable(), latents(5), classes, options, 7.0, shares)
    torch.testing.assert_close(e, expected, rtol=1e-4, atol=1e-5)
    assert (e - solvable().condition(classes)).abs().max() > 0.05


def test_losses_are_those_of_the_first_and_the_last_step_and_fall() -> None:
    options = EmbedOptions(pairs=40, iterations=30, lr=0.2, times="stratified")
    classes, z = torch.tensor([0, 1, 2]), latents(3)
    e, losses = tuned(solvable(), z, classes, generators(3), options, scale=0.1)
    assert (losses[1] < 0.7 * losses[0]).all()
    generator = generators(1)[0]
    times = time_grid(100)[(planned(options, generator)[0] * 50).long()]
    noise = drawn_noise((1, SIDE, SIDE), options, generator)
    start = solvable().condition(classes[:1]).expand(40, -1)
    first = solvable().noise_loss(z[:1].expand(40, -1, -1, -1), start, classes[:1].expand(40), times=times, noise=noise)
    torch.testing.assert_close(losses[0, 0], first.mean())

    def away(of: Tensor) -> Tensor:
        return (z.flatten(1) - of @ solvable().matrix.T).square().sum(1)

    assert (away(e) < away(solvable().condition(classes))).all()


def test_without_iterations_an_embedding_is_its_anchor() -> None:
    classes = torch.tensor([2, 0])
    e, losses = tuned(solvable(), latents(2), classes, generators(2), EmbedOptions(iterations=0), scale=1.0)
    assert e.equal(solvable().condition(classes))
    assert losses.equal(torch.zeros(2, 2))


def test_a_strong_prior_holds_embeddings_at_the_anchor() -> None:
    classes, free = torch.tensor([0, 1]), EmbedOptions(pairs=8, iterations=40, lr=0.01)
    held = free.model_copy(update={"prior": 1e6})
    moved = [
        (tuned(solvable(), latents(2), classes, generators(2), o, scale=1.0)[0] - solvable().condition(classes)).norm()
        for o in (free, held)
    ]
    assert moved[1] < 0.2 * moved[0]


# ------------------------------------------------------------------------------------------------- times and noises


def test_times_are_ddims_fifty() -> None:
    assert time_grid(1000).tolist() == list(range(1, 1000, 20))
    short = time_grid(100)
    assert len(short) == 50
    assert short[0] == 0
    assert short[-1] == 98
    assert (short.diff() == 2).all()


@pytest.mark.parametrize("noise", ["independent", "antithetic"])
@pytest.mark.parametrize("times", ["random", "stratified"])
def test_all_times_are_equally_likely_and_noises_standard_normal(times: str, noise: str) -> None:
    options = EmbedOptions(pairs=4, times=times, noise=noise)  # type: ignore[arg-type]
    plans = torch.stack([planned(options, g) for g in generators(900)])
    assert plans.shape == (900, 3, 4)
    for step in range(3):
        counts = torch.histc(plans[:, step], 10, 0, 1)
        assert counts.min() > 270  # 360 expected
        assert counts.max() < 450
    values = torch.stack([drawn_noise((2, 5), options, g) for g in generators(2500)]).flatten()
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.var()) - 1) < 0.02


@pytest.mark.parametrize("times", ["stratified", "importance"])
def test_every_pair_has_a_stretch_and_every_step_a_part_of_each(times: Any) -> None:
    options = EmbedOptions(pairs=5, iterations=4, times=times)
    for g in generators(20):
        plan = planned(options, g)
        assert (plan * 5).long().equal(torch.arange(5).expand(4, -1))
        assert (plan * 20).long().flatten().sort().values.tolist() == list(range(20))
    orders = {tuple((planned(options, g)[:, 0] * 20).long().tolist()) for g in generators(40)}
    assert len(orders) > 10


@pytest.mark.parametrize("pairs", [1, 5, 6])
def test_antithetic_noises_come_with_both_signs_at_one_time(pairs: int) -> None:
    options = EmbedOptions(pairs=pairs, noise="antithetic")
    at, noise = planned(options, generators(1)[0]), drawn_noise((3, 2), options, generators(1)[0])
    assert at.shape == (3, pairs)
    assert len(noise) == pairs
    half = -(-pairs // 2)
    assert noise[half:].equal(-noise[: pairs - half])
    assert at[:, half:].equal(at[:, : pairs - half])


def test_times_are_shared_by_the_gradients_there() -> None:
    """Of the solvable model d loss / d e is in proportion to (alpha_t / sigma_t)^2."""
    shares = time_shares(solvable(), latents(6), torch.arange(6) % CLASSES, generators(1)[0])
    expected = solvable().ratio(time_grid(100)).double().square()
    torch.testing.assert_close(shares, 0.1 / 50 + 0.9 * expected / expected.sum(), rtol=1e-4, atol=1e-7)
    assert float(shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize("times", ["random", "stratified", "importance"])
def test_the_loss_of_a_step_is_the_mean_over_the_grid_whatever_the_times(times: Any) -> None:
    """Unbiased; and the more evenly by importance."""
    z, y = latents(1).expand(400, -1, -1, -1), torch.zeros(400, dtype=torch.int64)
    options = EmbedOptions(times=times, iterations=1)
    shares = time_shares(solvable(), z[:4], y[:4], generators(1)[0]) if times == "importance" else None
    _, losses = tuned(solvable(), z, y, generators(400), options, 1.0, shares)
    grid = time_grid(100)
    e = solvable().condition(y[:50])
    exact = solvable().noise_loss(z[:50], e, y[:50], times=grid, noise=torch.randn(z[:50].shape)).mean()
    error = float(losses[0].std()) / 400**0.5
    assert abs(float(losses[0].mean() - exact)) < 4 * error
    assert error < float(exact) * {"random": 0.3, "stratified": 0.2, "importance": 0.02}[times]


# ------------------------------------------------------------------------------------------------- rows at once


@pytest.mark.parametrize(
    ("size", "given", "rows"),
    [(512, None, 4), (768, None, 1), (2048, None, 1), (64, None, 256), (32, None, 256), (512, 32, 32), (8, 3, 3)],
)
def test_rows_at_once_by_the_size_of_the_models_images(size: int, given: int | None, rows: int) -> None:
    model = solvable()
    model.own_size = (size, size)
    assert row_batches(model, given).size == rows


def test_a_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        tuned(Cramped(0, "back"), latents(2), torch.tensor([0, 1]), generators(2), EmbedOptions(), 1.0)


def test_the_profile_of_the_times_does_not_depend_on_the_rows_at_once() -> None:
    z, y = latents(6), torch.arange(6) % CLASSES
    whole = time_shares(solvable(), z, y, generators(1)[0])
    few = Cramped(4, "there")
    torch.testing.assert_close(time_shares(few, z, y, generators(1)[0], Batches(4)), whole)
    assert few.passes == [4, 2] * 50


# ------------------------------------------------------------------------------------------------- scale


def test_steps_are_in_units_of_the_anchors() -> None:
    """The same model in another scale of e has the same embeddings in that scale."""
    small, large = solvable(), solvable()
    large.table, large.matrix = 50 * small.table, small.matrix / 50
    classes, options, device = torch.tensor([0, 1]), EmbedOptions(pairs=4), torch.device("cpu")
    scales = [conditioning_scale(m, CLASSES, device, options, BUILT_IN) for m in (small, large)]
    assert scales[0] == pytest.approx(float(small.table.square().mean().sqrt()) / TOKEN_RMS)
    made = [
        tuned(m, latents(2), classes, generators(2), options, s)[0] for m, s in zip((small, large), scales, strict=True)
    ]
    torch.testing.assert_close(made[1], 50 * made[0], rtol=1e-3, atol=1e-4)


def test_stable_diffusions_token_embeddings_are_the_unit() -> None:
    device = torch.device("cpu")
    stable = DiffusionOptions(model="stable-diffusion", pipeline="someone/some-pipeline")
    assert conditioning_scale(solvable(), CLASSES, device, EmbedOptions(), stable) == 1
    assert conditioning_scale(solvable(), CLASSES, device, EmbedOptions(), BUILT_IN) > 1
    assert conditioning_scale(solvable(), CLASSES, device, EmbedOptions(scale=2.5), BUILT_IN) == 2.5
