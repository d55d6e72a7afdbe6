"""Embeddings of all images: kept in blocks, resumed, and each its own whatever the others are."""

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
from tests.train.outliers.conditioning.solvable_diffusion import CLASSES, SIDE, Cramped, SolvableDiffusion, solvable
from train.generators.diffusion import DiffusionOptions
from train.outliers.base import PrepareContext
from train.outliers.conditioning import image_embeddings
from train.outliers.conditioning.image_embeddings import Embedded, chosen_rows
from train.outliers.conditioning.prompt_tuning import EmbedOptions

BUILT_IN = DiffusionOptions()
PROFILE = 50 * image_embeddings.SHARED  # calls of the network that say which times matter


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    images = np.random.default_rng(0).integers(0, 256, (25, SIDE, SIDE, 1), dtype=np.uint8)
    data = load((images, np.arange(25) % CLASSES), channels=1)
    return PrepareContext(None, data, tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]  # it reads no network


def embed_images(model: SolvableDiffusion, context: PrepareContext, options: EmbedOptions) -> Embedded:
    return image_embeddings.embed_images(model, context, options, BUILT_IN)


def inside(context: PrepareContext, name: str) -> PrepareContext:
    """The context with a folder of its own."""
    return replace(context, folder=context.folder / name)


def test_an_images_embedding_does_not_depend_on_the_others(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EmbedOptions(pairs=4)  # by importance, for which the same images are looked at
    whole = embed_images(solvable(), inside(context, "a"), options)
    assert whole.e.shape == (25, 12)
    assert whole.classes.tolist() == [i % CLASSES for i in range(25)]
    monkeypatch.setattr(image_embeddings, "BLOCK", 7)
    parts = embed_images(solvable(), inside(context, "b"), options.model_copy(update={"batch_size": 9}))
    torch.testing.assert_close(parts.e, whole.e)
    few = embed_images(solvable(), inside(context, "c"), options.model_copy(update={"per_class": 2}))
    assert torch.bincount(few.classes).tolist() == [2] * CLASSES
    torch.testing.assert_close(few.e, whole.e[few.rows])


def test_a_killed_embedding_goes_on_and_ends_alike(context: PrepareContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_embeddings, "BLOCK", 10)
    options = EmbedOptions(pairs=4)
    whole = embed_images(solvable(), inside(context, "whole"), options)
    make, done = image_embeddings._block, []

    def killed(*arguments: Any) -> Any:
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(len(arguments[-1]))
        return make(*arguments)

    monkeypatch.setattr(image_embeddings, "_block", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_images(solvable(), inside(context, "killed"), options)
    model = solvable()
    again = embed_images(model, inside(context, "killed"), options)
    assert done == [10, 10, "killed", 5]
    assert model.calls == 5 * 3 * 4 + PROFILE  # what was missing
    assert again.e.equal(whole.e)
    model.calls = 0
    once_more = embed_images(model, inside(context, "killed"), options)
    assert done == [10, 10, "killed", 5]
    assert once_more.e.equal(whole.e)
    assert model.calls == 0


def test_latents_are_encoded_once(context: PrepareContext, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = SolvableDiffusion.encode

    def counted(self: SolvableDiffusion, images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SolvableDiffusion, "encode", counted)
    embed_images(solvable(), context, EmbedOptions(pairs=4, batch_size=8))
    assert encoded == [image_embeddings.SHARED, 25]


def test_everything_that_decides_the_embeddings_has_a_folder_of_its_own(context: PrepareContext) -> None:
    options = EmbedOptions(pairs=2)
    other = solvable()
    other.matrix = other.matrix * 1.1
    renamed = solvable()
    renamed.table = renamed.table.roll(1, 0)
    cases: list[tuple[SolvableDiffusion, PrepareContext, EmbedOptions]] = [
        (solvable(), context, options),
        (solvable(), context, options),  # the same
        (solvable(), context, options.model_copy(update={"batch_size": 3})),  # the same
        (other, context, options),
        (renamed, context, options),
        (solvable(), replace(context, seed=1), options),
        (solvable(), replace(context, data=context.data.subset(np.arange(20))), options),
        (solvable(), context, options.model_copy(update={"lr": 0.02})),
        (solvable(), context, options.model_copy(update={"pairs": 3})),
        (solvable(), context, options.model_copy(update={"times": "random"})),
        (solvable(), context, options.model_copy(update={"scale": 3.0})),
        (solvable(), context, options.model_copy(update={"per_class": 2})),
    ]
    for case in cases:
        embed_images(*case)
    assert len(list(context.folder.iterdir())) == len(cases) - 2


def test_what_the_precision_of_the_machine_changes_is_no_other_folder(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses differ in the fourth digit where networks compute in bfloat16; the embeddings are still this model's."""
    first = embed_images(solvable(), context, EmbedOptions(pairs=2))
    loss = SolvableDiffusion.noise_loss
    monkeypatch.setattr(SolvableDiffusion, "noise_loss", lambda *args, **more: loss(*args, **more) * 1.003)
    again = embed_images(solvable(), context, EmbedOptions(pairs=2))
    assert len(list(context.folder.iterdir())) == 1
    assert again.e.equal(first.e)


def test_the_prompt_that_embeddings_are_tuned_with_has_a_folder_of_its_own(context: PrepareContext) -> None:
    """Not the one that images are asked for with, unless it is one."""
    folders = []
    for asked, tuned_with in (
        ({}, {}),
        ({"prompt": "A photo of the {}"}, {}),
        ({"prompt": "An image of a {}"}, {"prompt": None}),
        ({}, {"prompt": None}),
        ({}, {"prompt": "A photo of the {}"}),
        ({"prompt": "A photo of the {}"}, {"prompt": None}),
    ):
        stable = DiffusionOptions(**{"model": "stable-diffusion", "pipeline": "someone/some-pipeline", **asked})
        before = set(context.folder.iterdir())
        options = EmbedOptions(**{"pairs": 2, **tuned_with})
        image_embeddings.embed_images(solvable(), context, options, stable)
        folders.append(len(set(context.folder.iterdir()) - before))
    assert folders == [1, 0, 0, 1, 1, 0]


def test_a_damaged_block_is_refused_with_what_to_do(context: PrepareContext) -> None:
    embed_images(solvable(), context, EmbedOptions(pairs=2))
    (path,) = context.folder.glob("embeddings-*/00000.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtefactDamagedError, match=r"00000\.safetensors is damaged .*remove it to make"):
        embed_images(solvable(), context, EmbedOptions(pairs=2))


def test_the_displacement_is_logged(context: PrepareContext, caplog: pytest.LogCaptureFixture) -> None:
    """A first step of Adam moves every number by lr, so three of them by at most 3 lr (NCIS, Doorenbos et al. 2024)."""
    options = EmbedOptions(pairs=2, iterations=1, scale=1.0, lr=0.01)
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


@pytest.mark.parametrize("where", ["there", "back"])
@pytest.mark.parametrize("limit", [40, 5, 1])
def test_where_memory_runs_out_rows_are_halved_and_nothing_is_lost(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch, limit: int, where: str
) -> None:
    """Down to the pairs of one image; at once from then on, in the profile of the times too."""
    options = EmbedOptions(pairs=6, iterations=2, lr=1e-2, batch_size=64)
    monkeypatch.setattr(image_embeddings, "BLOCK", 15)
    whole = embed_images(solvable(), inside(context, "whole"), options)
    model = Cramped(limit, where)
    cramped = embed_images(model, inside(context, "cramped"), options)
    torch.testing.assert_close(cramped.e, whole.e, rtol=1e-4, atol=1e-6)
    names = [next((context.folder / name).iterdir()).name for name in ("whole", "cramped")]
    assert names[0] == names[1]  # embeddings are those of the same folder
    assert sum(model.passes) == 25 * 6 * 2 + PROFILE
    assert max(model.passes[-20:]) == {40: 32, 5: 4, 1: 1}[limit]
