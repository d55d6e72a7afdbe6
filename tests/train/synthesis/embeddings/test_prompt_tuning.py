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

from guard.errors import ArtefactDamagedError
from tests.train.synthesis.embeddings.solvable_diffusion import SolvableDiffusion
from train.data import load
from train.method import Setting
from train.synthesis.embeddings import prompt_tuning
from train.synthesis.embeddings.prompt_tuning import (
    TOKEN_RMS,
    EmbedOptions,
    chosen_rows,
    conditioning_scale,
    draw_pairs,
    embed_images,
    time_grid,
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
def setting(tmp_path: Path) -> Setting:
    images = np.random.default_rng(0).integers(0, 256, (25, SIDE, SIDE, 1), dtype=np.uint8)
    data = load((images, np.arange(25) % CLASSES), channels=1)
    return Setting(None, data, tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]  # it reads no network


def one_by_one(diffusion: SolvableDiffusion, z: Tensor, classes: Tensor, options: EmbedOptions, scale: float) -> Tensor:
    """The definition: an optimizer per image, and every (t, eps) by itself."""
    made = []
    for i, generator in enumerate(generators(len(z))):
        anchor = diffusion.condition(classes[i : i + 1])
        e = torch.nn.Parameter(anchor.clone())
        optimizer = torch.optim.Adam([e], lr=options.embed_lr * scale)
        for _ in range(options.embed_iterations):
            times, noise = draw_pairs((1, SIDE, SIDE), time_grid(diffusion.times), options, generator)
            losses = [
                diffusion.noise_loss(z[i : i + 1], e, classes[i : i + 1], times=t.view(1), noise=n[None])
                for t, n in zip(times, noise, strict=True)
            ]
            prior = options.embed_prior * ((e - anchor) / scale).square().sum()
            optimizer.zero_grad()
            (torch.stack(losses).mean() + prior).backward()
            optimizer.step()
        made.append(e.detach()[0])
    return torch.stack(made)


@pytest.mark.parametrize("more", [{}, {"embed_prior": 5.0}, {"embed_batch": 8}, {"embed_times": "stratified"}])
def test_a_batch_equals_an_optimizer_per_image(more: dict[str, Any]) -> None:
    options = EmbedOptions(**{"embed_pairs": 6, "embed_iterations": 4, **more})
    classes = torch.tensor([0, 1, 2, 2, 0])
    e, _ = tuned(solvable(), latents(5), classes, generators(5), options, scale=7.0)
    expected = one_by_one(solvable(), latents(5), classes, options, scale=7.0)
    torch.testing.assert_close(e, expected, rtol=1e-4, atol=1e-5)
    assert (e - solvable().condition(classes)).abs().max() > 0.05


def test_losses_are_those_of_the_first_and_the_last_step_and_fall() -> None:
    options = EmbedOptions(embed_pairs=40, embed_iterations=30, embed_lr=0.2)
    classes, z = torch.tensor([0, 1, 2]), latents(3)
    e, losses = tuned(solvable(), z, classes, generators(3), options, scale=0.1)
    assert (losses[1] < 0.7 * losses[0]).all()
    times, noise = draw_pairs((1, SIDE, SIDE), time_grid(100), options, generators(1)[0])
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
    classes, free = torch.tensor([0, 1]), EmbedOptions(embed_pairs=8, embed_iterations=40)
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
    drawn = [draw_pairs((2, 5), time_grid(1000), options, g) for g in generators(2500)]
    at = torch.stack([t for t, _ in drawn])
    counts = torch.bincount(at.flatten() // 20, minlength=50)
    assert counts.min() > 120  # 200 expected
    assert counts.max() < 280
    values = torch.stack([n for _, n in drawn]).flatten()
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.var()) - 1) < 0.02


def test_stratified_times_fall_in_a_stretch_each() -> None:
    options = EmbedOptions(embed_pairs=5, embed_times="stratified")
    for g in generators(20):
        at, _ = draw_pairs((1,), time_grid(1000), options, g)
        assert (at // 200).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("pairs", [1, 5, 6])
def test_antithetic_noises_come_with_both_signs_at_one_time(pairs: int) -> None:
    options = EmbedOptions(embed_pairs=pairs, embed_noise="antithetic")
    at, noise = draw_pairs((3, 2), time_grid(1000), options, generators(1)[0])
    assert len(at) == len(noise) == pairs
    half = -(-pairs // 2)
    assert noise[half:].equal(-noise[: pairs - half])
    assert at[half:].equal(at[: pairs - half])


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
    from train.synthesis.images.ncis import NCISOptions

    device = torch.device("cpu")
    assert conditioning_scale(solvable(), CLASSES, device, NCISOptions(diffusion="stable-diffusion")) == 1
    assert conditioning_scale(solvable(), CLASSES, device, NCISOptions(diffusion="solvable")) > 1
    assert conditioning_scale(solvable(), CLASSES, device, NCISOptions(diffusion="solvable", embed_scale=2.5)) == 2.5


# ------------------------------------------------------------------------------------------------- all images, kept


def test_an_images_embedding_does_not_depend_on_the_others(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    options = EmbedOptions(embed_pairs=4)
    whole = embed_images(solvable(), setting, options, setting.folder / "a")
    assert whole.e.shape == (25, 12)
    assert whole.classes.tolist() == [i % CLASSES for i in range(25)]
    monkeypatch.setattr(prompt_tuning, "BLOCK", 7)
    parts = embed_images(solvable(), setting, options.model_copy(update={"embed_batch": 9}), setting.folder / "b")
    torch.testing.assert_close(parts.e, whole.e)
    few = embed_images(solvable(), setting, options.model_copy(update={"embed_per_class": 2}), setting.folder / "c")
    assert torch.bincount(few.classes).tolist() == [2] * CLASSES
    torch.testing.assert_close(few.e, whole.e[few.rows])


def test_a_killed_embedding_goes_on_and_ends_alike(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_tuning, "BLOCK", 10)
    options = EmbedOptions(embed_pairs=4)
    whole = embed_images(solvable(), setting, options, setting.folder / "whole")
    make, done = prompt_tuning._block, []

    def killed(*arguments: Any) -> Any:
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(len(arguments[4]))
        return make(*arguments)

    monkeypatch.setattr(prompt_tuning, "_block", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_images(solvable(), setting, options, setting.folder / "killed")
    model = solvable()
    again = embed_images(model, setting, options, setting.folder / "killed")
    assert done == [10, 10, "killed", 5]
    assert model.calls == 5 * 3 * 4 + prompt_tuning.PROBED  # what was missing, and the probe
    assert again.e.equal(whole.e)
    once_more = embed_images(model, setting, options, setting.folder / "killed")
    assert done == [10, 10, "killed", 5]
    assert once_more.e.equal(whole.e)


def test_latents_are_encoded_once(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = SolvableDiffusion.encode

    def counted(self: SolvableDiffusion, images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SolvableDiffusion, "encode", counted)
    embed_images(solvable(), setting, EmbedOptions(embed_pairs=4, embed_batch=8), setting.folder)
    assert encoded == [prompt_tuning.PROBED, 25]


def test_everything_that_decides_the_embeddings_has_a_folder_of_its_own(setting: Setting) -> None:
    options = EmbedOptions(embed_pairs=2)
    other = solvable()
    other.matrix = other.matrix * 1.1
    renamed = solvable()
    renamed.table = renamed.table.roll(1, 0)
    cases: list[tuple[SolvableDiffusion, Setting, EmbedOptions]] = [
        (solvable(), setting, options),
        (solvable(), setting, options),  # the same
        (solvable(), setting, options.model_copy(update={"embed_batch": 3})),  # the same
        (other, setting, options),
        (renamed, setting, options),
        (solvable(), replace(setting, seed=1), options),
        (solvable(), replace(setting, data=setting.data.subset(np.arange(20))), options),
        (solvable(), setting, options.model_copy(update={"embed_lr": 0.02})),
        (solvable(), setting, options.model_copy(update={"embed_pairs": 3})),
        (solvable(), setting, options.model_copy(update={"embed_scale": 3.0})),
        (solvable(), setting, options.model_copy(update={"embed_per_class": 2})),
    ]
    for case in cases:
        embed_images(*case, setting.folder)
    assert len(list(setting.folder.iterdir())) == len(cases) - 2


def test_a_damaged_block_is_refused_with_what_to_do(setting: Setting) -> None:
    embed_images(solvable(), setting, EmbedOptions(embed_pairs=2), setting.folder)
    (path,) = setting.folder.glob("embeddings-*/00000.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtefactDamagedError, match=r"00000\.safetensors is damaged .*remove it to make"):
        embed_images(solvable(), setting, EmbedOptions(embed_pairs=2), setting.folder)


def test_the_displacement_is_logged(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """A first step of Adam moves every number by lr, so three of them by at most 3 lr (methods.md A5)."""
    options = EmbedOptions(embed_pairs=2, embed_iterations=1, embed_scale=1.0)
    with caplog.at_level(logging.INFO, "ood_guard"):
        made = embed_images(solvable(), setting, options, setting.folder)
    moved = (made.e - solvable().condition(made.classes)).norm(dim=-1)
    torch.testing.assert_close(moved, torch.full((25,), 0.01 * 12**0.5), rtol=1e-3, atol=0)
    share = float((moved / solvable().condition(made.classes).norm(dim=-1)).mean())
    assert f"|e - T(y)| {float(moved.mean()):.3g} on average, {share:.3g} of |T(y)|" in caplog.text


def test_rows_of_a_class_grow_with_the_number_asked_for(setting: Setting) -> None:
    few, more = (set(chosen_rows(setting.data, n, 0).tolist()) for n in (2, 4))
    assert few < more
    assert len(more) == 4 * CLASSES
    assert chosen_rows(setting.data, None, 0).tolist() == list(range(25))
    assert few != set(chosen_rows(setting.data, 2, 1).tolist())
