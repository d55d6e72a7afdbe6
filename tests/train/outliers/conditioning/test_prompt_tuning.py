"""Prompt tuning against one torch.optim.Adam per image, one call of the network at a time."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ArtefactDamagedError
from tests.train.outliers.conditioning.solvable_diffusion import SolvableDiffusion
from train.engine.adaptive_batches import Batches
from train.outliers.base import PrepareContext
from train.outliers.conditioning import prompt_tuning
from train.outliers.conditioning.prompt_tuning import (
    TOKEN_RMS,
    EmbedOptions,
    chosen_rows,
    conditioning_scale,
    drawn_noise,
    embed_images,
    planned,
    row_batches,
    time_grid,
    time_shares,
    tuned,
)

CLASSES, SIDE = 3, 4


def generators(n: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def solvable() -> SolvableDiffusion:
    return SolvableDiffusion(CLASSES, (SIDE, SIDE), 1)


def latents(n: int) -> Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    images = np.random.default_rng(0).integers(0, 256, (25, SIDE, SIDE, 1), dtype=np.uint8)
    data = load((images, np.arange(25) % CLASSES), channels=1)
    return PrepareContext(None, data, tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]  # it reads no network


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
        optimizer = torch.optim.Adam([e], lr=options.embed_lr * scale)
        plan = planned(options, generator)
        for step in range(options.embed_iterations):
            noises = drawn_noise((1, SIDE, SIDE), options, generator)
            loss = options.embed_prior * ((e - anchor) / scale).square().sum()
            for u, noise in zip(plan[step].double().numpy(), noises, strict=True):
                k = next(k for k in range(50) if u < p[: k + 1].sum() or k == 49)
                time = time_grid(diffusion.times)[k].view(1)
                one = diffusion.noise_loss(z[i : i + 1], e, classes[i : i + 1], times=time, noise=noise[None])
                loss = loss + one.sum() / (50 * p[k]) / options.embed_pairs
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        made.append(e.detach()[0])
    return torch.stack(made)


@pytest.mark.parametrize(
    "more",
    [
        {"embed_times": "random"},
        {"embed_prior": 5.0},
        {"embed_batch": 8},  # pairs of two images
        {"embed_batch": 4},  # not even one image's
        {"embed_times": "stratified"},
        {"embed_noise": "antithetic", "embed_pairs": 5},
    ],
)
@pytest.mark.parametrize("uneven", [False, True])
def test_a_batch_equals_an_optimizer_per_image(more: dict[str, Any], uneven: bool) -> None:
    options = EmbedOptions(**{"embed_pairs": 6, "embed_iterations": 4, "embed_lr": 1e-2, **more})
    classes = torch.tensor([0, 1, 2, 2, 0])
    shares = torch.linspace(5, 1, 50, dtype=torch.float64) / 150 if uneven else None
    e, _ = tuned(solvable(), latents(5), classes, generators(5), options, 7.0, shares)
    expected = one_by_one(solvable(), latents(5), classes, options, 7.0, shares)
    torch.testing.assert_close(e, expected, rtol=1e-4, atol=1e-5)
    assert (e - solvable().condition(classes)).abs().max() > 0.05


def test_losses_are_those_of_the_first_and_the_last_step_and_fall() -> None:
    options = EmbedOptions(embed_pairs=40, embed_iterations=30, embed_lr=0.2, embed_times="stratified")
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
    e, losses = tuned(solvable(), latents(2), classes, generators(2), EmbedOptions(embed_iterations=0), scale=1.0)
    assert e.equal(solvable().condition(classes))
    assert losses.equal(torch.zeros(2, 2))


def test_a_strong_prior_holds_embeddings_at_the_anchor() -> None:
    classes, free = torch.tensor([0, 1]), EmbedOptions(embed_pairs=8, embed_iterations=40, embed_lr=0.01)
    held = free.model_copy(update={"embed_prior": 1e6})
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
    options = EmbedOptions(embed_pairs=4, embed_times=times, embed_noise=noise)  # type: ignore[arg-type]
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
    options = EmbedOptions(embed_pairs=5, embed_iterations=4, embed_times=times)
    for g in generators(20):
        plan = planned(options, g)
        assert (plan * 5).long().equal(torch.arange(5).expand(4, -1))
        assert (plan * 20).long().flatten().sort().values.tolist() == list(range(20))
    orders = {tuple((planned(options, g)[:, 0] * 20).long().tolist()) for g in generators(40)}
    assert len(orders) > 10


@pytest.mark.parametrize("pairs", [1, 5, 6])
def test_antithetic_noises_come_with_both_signs_at_one_time(pairs: int) -> None:
    options = EmbedOptions(embed_pairs=pairs, embed_noise="antithetic")
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
    options = EmbedOptions(embed_times=times, embed_iterations=1)
    shares = time_shares(solvable(), z[:4], y[:4], generators(1)[0]) if times == "importance" else None
    _, losses = tuned(solvable(), z, y, generators(400), options, 1.0, shares)
    grid = time_grid(100)
    e = solvable().condition(y[:50])
    exact = solvable().noise_loss(z[:50], e, y[:50], times=grid, noise=torch.randn(z[:50].shape)).mean()
    error = float(losses[0].std()) / 400**0.5
    assert abs(float(losses[0].mean() - exact)) < 4 * error
    assert error < float(exact) * {"random": 0.3, "stratified": 0.2, "importance": 0.02}[times]


# ------------------------------------------------------------------------------------------------- rows at once


class Cramped(SolvableDiffusion):
    """One that runs out of memory beyond so many rows, on the way there or back; `passes` are those that did not."""

    def __init__(self, limit: int, where: str) -> None:
        super().__init__(CLASSES, (SIDE, SIDE), 1)
        self.limit, self.where, self.passes = limit, where, list[int]()

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        assert e.requires_grad
        loss = super().noise_loss(latents, e, classes, times=times, noise=noise)
        if len(e) <= self.limit:
            self.passes.append(len(e))
        elif self.where == "there":
            raise torch.OutOfMemoryError
        else:
            e.register_hook(self._full)  # when the gradient is there
        return loss

    def _full(self, _: Tensor) -> None:
        raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("size", "given", "rows"),
    [(512, None, 4), (768, None, 1), (2048, None, 1), (64, None, 256), (32, None, 256), (512, 32, 32), (8, 3, 3)],
)
def test_rows_at_once_by_the_size_of_the_models_images(size: int, given: int | None, rows: int) -> None:
    model = solvable()
    model.own_size = (size, size)
    assert row_batches(model, given).size == rows


@pytest.mark.parametrize("where", ["there", "back"])
@pytest.mark.parametrize("limit", [40, 5, 1])
def test_where_memory_runs_out_rows_are_halved_and_nothing_is_lost(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch, limit: int, where: str
) -> None:
    """Down to the pairs of one image; at once from then on, in the profile of the times too."""
    options = EmbedOptions(embed_pairs=6, embed_iterations=2, embed_lr=1e-2, embed_batch=64)
    monkeypatch.setattr(prompt_tuning, "BLOCK", 15)
    whole = embed_images(solvable(), inside(context, "whole"), options)
    model = Cramped(limit, where)
    cramped = embed_images(model, inside(context, "cramped"), options)
    torch.testing.assert_close(cramped.e, whole.e, rtol=1e-4, atol=1e-6)
    names = [next((context.folder / name).iterdir()).name for name in ("whole", "cramped")]
    assert names[0] == names[1]  # embeddings are those of the same folder
    profile = 50 * prompt_tuning.SHARED
    assert sum(model.passes) == 25 * 6 * 2 + profile + prompt_tuning.PROBED
    assert max(model.passes[-20:]) == {40: 32, 5: 4, 1: 1}[limit]


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
    classes, options, device = torch.tensor([0, 1]), EmbedOptions(embed_pairs=4), torch.device("cpu")
    scales = [conditioning_scale(m, CLASSES, device, options) for m in (small, large)]
    assert scales[0] == pytest.approx(float(small.table.square().mean().sqrt()) / TOKEN_RMS)
    made = [
        tuned(m, latents(2), classes, generators(2), options, s)[0] for m, s in zip((small, large), scales, strict=True)
    ]
    torch.testing.assert_close(made[1], 50 * made[0], rtol=1e-3, atol=1e-4)


def test_stable_diffusions_token_embeddings_are_the_unit() -> None:
    from train.outliers.images.ncis import NCISOptions

    device = torch.device("cpu")
    stable = NCISOptions(diffusion="stable-diffusion", diffusion_model="someone/some-pipeline")
    assert conditioning_scale(solvable(), CLASSES, device, stable) == 1
    assert conditioning_scale(solvable(), CLASSES, device, NCISOptions(diffusion="solvable")) > 1
    assert conditioning_scale(solvable(), CLASSES, device, NCISOptions(diffusion="solvable", embed_scale=2.5)) == 2.5


# ------------------------------------------------------------------------------------------------- all images, kept


def inside(context: PrepareContext, name: str) -> PrepareContext:
    """The context with a folder of its own."""
    return replace(context, folder=context.folder / name)


def test_an_images_embedding_does_not_depend_on_the_others(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EmbedOptions(embed_pairs=4)  # by importance, for which the same images are looked at
    whole = embed_images(solvable(), inside(context, "a"), options)
    assert whole.e.shape == (25, 12)
    assert whole.classes.tolist() == [i % CLASSES for i in range(25)]
    monkeypatch.setattr(prompt_tuning, "BLOCK", 7)
    parts = embed_images(solvable(), inside(context, "b"), options.model_copy(update={"embed_batch": 9}))
    torch.testing.assert_close(parts.e, whole.e)
    few = embed_images(solvable(), inside(context, "c"), options.model_copy(update={"embed_per_class": 2}))
    assert torch.bincount(few.classes).tolist() == [2] * CLASSES
    torch.testing.assert_close(few.e, whole.e[few.rows])


def test_a_killed_embedding_goes_on_and_ends_alike(context: PrepareContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_tuning, "BLOCK", 10)
    options = EmbedOptions(embed_pairs=4)
    profile = 50 * prompt_tuning.SHARED
    whole = embed_images(solvable(), inside(context, "whole"), options)
    make, done = prompt_tuning._block, []

    def killed(*arguments: Any) -> Any:
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(len(arguments[-1]))
        return make(*arguments)

    monkeypatch.setattr(prompt_tuning, "_block", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_images(solvable(), inside(context, "killed"), options)
    model = solvable()
    again = embed_images(model, inside(context, "killed"), options)
    assert done == [10, 10, "killed", 5]
    assert model.calls == 5 * 3 * 4 + prompt_tuning.PROBED + profile  # what was missing, and the probes
    assert again.e.equal(whole.e)
    model.calls = 0
    once_more = embed_images(model, inside(context, "killed"), options)
    assert done == [10, 10, "killed", 5]
    assert once_more.e.equal(whole.e)
    assert model.calls == prompt_tuning.PROBED


def test_latents_are_encoded_once(context: PrepareContext, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = SolvableDiffusion.encode

    def counted(self: SolvableDiffusion, images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SolvableDiffusion, "encode", counted)
    embed_images(solvable(), context, EmbedOptions(embed_pairs=4, embed_batch=8))
    assert encoded == [prompt_tuning.PROBED, prompt_tuning.SHARED, 25]


def test_everything_that_decides_the_embeddings_has_a_folder_of_its_own(context: PrepareContext) -> None:
    options = EmbedOptions(embed_pairs=2)
    other = solvable()
    other.matrix = other.matrix * 1.1
    renamed = solvable()
    renamed.table = renamed.table.roll(1, 0)
    cases: list[tuple[SolvableDiffusion, PrepareContext, EmbedOptions]] = [
        (solvable(), context, options),
        (solvable(), context, options),  # the same
        (solvable(), context, options.model_copy(update={"embed_batch": 3})),  # the same
        (other, context, options),
        (renamed, context, options),
        (solvable(), replace(context, seed=1), options),
        (solvable(), replace(context, data=context.data.subset(np.arange(20))), options),
        (solvable(), context, options.model_copy(update={"embed_lr": 0.02})),
        (solvable(), context, options.model_copy(update={"embed_pairs": 3})),
        (solvable(), context, options.model_copy(update={"embed_times": "random"})),
        (solvable(), context, options.model_copy(update={"embed_scale": 3.0})),
        (solvable(), context, options.model_copy(update={"embed_per_class": 2})),
    ]
    for case in cases:
        embed_images(*case)
    assert len(list(context.folder.iterdir())) == len(cases) - 2


def test_the_prompt_that_embeddings_are_tuned_with_has_a_folder_of_its_own(context: PrepareContext) -> None:
    """Not the one that images are asked for with, unless it is one."""
    from train.outliers.images.ncis import NCISOptions

    folders = []
    for more in (
        {},
        {"prompt": "A photo of the {}"},
        {"prompt": "An image of a {}", "embed_prompt": None},
        {"embed_prompt": None},
        {"embed_prompt": "A photo of the {}"},
        {"prompt": "A photo of the {}", "embed_prompt": None},
    ):
        stable: dict[str, Any] = {
            "diffusion": "stable-diffusion",
            "diffusion_model": "someone/some-pipeline",
            "embed_pairs": 2,
        }
        before = set(context.folder.iterdir())
        embed_images(solvable(), context, NCISOptions(**{**stable, **more}))
        folders.append(len(set(context.folder.iterdir()) - before))
    assert folders == [1, 0, 0, 1, 1, 0]


def test_a_damaged_block_is_refused_with_what_to_do(context: PrepareContext) -> None:
    embed_images(solvable(), context, EmbedOptions(embed_pairs=2))
    (path,) = context.folder.glob("embeddings-*/00000.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtefactDamagedError, match=r"00000\.safetensors is damaged .*remove it to make"):
        embed_images(solvable(), context, EmbedOptions(embed_pairs=2))


def test_the_displacement_is_logged(context: PrepareContext, caplog: pytest.LogCaptureFixture) -> None:
    """A first step of Adam moves every number by lr, so three of them by at most 3 lr (methods.md A5)."""
    options = EmbedOptions(embed_pairs=2, embed_iterations=1, embed_scale=1.0, embed_lr=0.01)
    with caplog.at_level(logging.INFO, "ood_guard"):
        made = embed_images(solvable(), context, options)
    moved = (made.e - solvable().condition(made.classes)).norm(dim=-1)
    torch.testing.assert_close(moved, torch.full((25,), 0.01 * 12**0.5), rtol=1e-3, atol=0)
    share = float((moved / solvable().condition(made.classes).norm(dim=-1)).mean())
    assert f"|e - T(y)| {float(moved.mean()):.3g} on average, {share:.3g} of |T(y)|" in caplog.text


def test_rows_of_a_class_grow_with_the_number_asked_for(context: PrepareContext) -> None:
    few, more = (set(chosen_rows(context.data, n, 0).tolist()) for n in (2, 4))
    assert few < more
    assert len(more) == 4 * CLASSES
    assert chosen_rows(context.data, None, 0).tolist() == list(range(25))
    assert few != set(chosen_rows(context.data, 2, 1).tolist())
