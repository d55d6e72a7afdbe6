"""Filling an outlier store, or continuing one.

A shard is written whole or not at all and depends on (seed, its number) alone: a run that was killed resumes at the
first missing shard and ends with the same bytes, and a store that is asked for more images grows. A folder whose card
says otherwise is refused, never mixed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.errors import ConfigError
from guard.manifest import versions
from guard.record import Record, knobs
from guard.requests import check_seed

from ...cache.keyed import weights_digest
from ...cache.shared_model import SharedOptions
from ...engine.distributed import alone, processes
from ...engine.loader import Feed
from ...engine.progress import progress_bar
from .. import matching
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext
from .card import Card, check_same, read_card, source_card, write_card
from .shards import Rows, write_shard
from .store import Store, missing_shards

log = logging.getLogger("ood_guard")

SHARD_SIZE = 1000  # images; a kill loses at most these
SHARD_BYTES = 64 * 2**20  # of pixels; large images get smaller shards
MOST_BY_DEFAULT = 50_000
BATCH_SIZE = 128


def fill(
    folder: str | Path,
    synthesiser: ImageSynthesiser,
    context: PrepareContext,
    count: int,
    *,
    match: tuple[str, ...] = (),
    batch_size: int = BATCH_SIZE,
    shard_size: int | None = None,
    any_classifier: bool = False,
) -> Store:
    """Make a store, continue one, or open one that is whole already (without any work).

    Random in-distribution batches with their classes mixed -> `synthesiser.sample` -> `match` -> PNG.

    Args:
        context: the in-distribution images, seed, device and network; what the synthesiser prepares (a generator) goes
            into the store's own folder.
        count: images in all. More than a store holds makes it grow.
        match: what to match to in-distribution images in; see `train.outliers.matching`.
        batch_size: in-distribution images per draw, of which `synthesiser.count` outliers are made.
        shard_size: images per shard; default 1,000, and fewer for large images.
        any_classifier: take a whole store whatever classifier it was made with (a resumed run has trained on since).

    Raises:
        ConfigError: the folder holds outliers that were made otherwise; every difference is named.
    """
    folder = Path(folder)
    card = _card(folder, synthesiser, context, count, matching.checked(match), batch_size, shard_size)
    us = processes()
    card, whole = _agreed(folder, card, synthesiser, any_classifier)
    us.wait()  # all have seen the same folder
    if not whole:
        synthesiser.count = card.per_draw
        synthesiser.to(context.device)
        context.module.eval()
        synthesiser.total = len(card.shards()) * card.shard_size
        inside = replace(context, folder=folder)
        synthesiser.check(inside)
        if us.world > 1:
            synthesiser.prepare_together(inside, us)
        with us.main_process_first():  # what is trained first is trained once
            synthesiser.prepare(inside)
            card = _with_model(folder, card, synthesiser)
            if us.is_first:
                write_card(folder, card)
        with alone():
            _make(folder, card, us.share(missing_shards(folder, card)), synthesiser, context)
    us.wait()
    return Store(folder, card)


def _agreed(folder: Path, card: Card, synthesiser: ImageSynthesiser, any_classifier: bool) -> tuple[Card, bool]:
    """The card to continue with where `card` is asked for, and whether nothing is left to be made."""
    held = read_card(folder)
    begun = folder.is_dir() and any(folder.glob("*.parquet"))
    if held is not None and begun:  # a card alone is of a run that was stopped before it made anything
        whole = not missing_shards(folder, held)
        if any_classifier and whole:
            card = card.model_copy(update={"classifier": held.classifier})
        if knobs(synthesiser.Options):  # one may have said how many are drawn at once, when it was begun
            card = card.model_copy(update={"per_draw": held.per_draw})
        check_same(folder, held, card, _not_compared(held, synthesiser))
        if whole and held.count == card.count:
            return held, True
        return card.model_copy(update={"model": held.model}), False
    if begun:
        raise ConfigError(f"{folder} holds Parquet files and no store; choose another folder for the outliers")
    return card, False


def _shared(options: Record) -> tuple[str, SharedOptions | None]:
    """The options of a model that runs can share, where the synthesiser decodes with one, and the path before them."""
    if isinstance(options, SharedOptions):
        return "", options
    found = [(f"{name}.", value) for name, value in options if isinstance(value, SharedOptions)]
    return found[0] if found else ("", None)


def _not_compared(held: Card, synthesiser: ImageSynthesiser) -> set[str]:
    """Fields of the card that decide no image: knobs, and those whose place the model's own digest takes."""
    path, shared = _shared(synthesiser.options)
    settled: frozenset[str] = frozenset()
    if shared is not None and (held.model is not None or not shared.is_ours):
        settled = frozenset(path + name for name in shared.settled())
    return {f"options.{name}" for name in settled | knobs(type(synthesiser.options))}


def _with_model(folder: Path, card: Card, synthesiser: ImageSynthesiser) -> Card:
    """The card, with the model that is there once it is prepared.

    Raises:
        ConfigError: what the store holds was made by another.
    """
    _, shared = _shared(synthesiser.options)
    if shared is None:
        return card
    found = card.model_copy(update={"model": shared.identity(folder) or synthesiser.decoder() or card.model})
    check_same(folder, card, found)
    return found


def _card(
    folder: Path,
    synthesiser: ImageSynthesiser,
    context: PrepareContext,
    count: int,
    match: tuple[str, ...],
    batch_size: int,
    shard_size: int | None,
) -> Card:
    p = context.data.preprocess
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"count must be a number of images, at least 1, got {count!r}")
    check_seed(context.seed)
    if batch_size < 2:
        raise ConfigError(f"batch_size must be at least 2, got {batch_size}")
    used = synthesiser.needs_classifier(synthesiser.options)
    _, shared = _shared(synthesiser.options)
    return Card(
        synthesiser=synthesiser.name,
        options=synthesiser.options.model_dump(mode="json"),
        revision=synthesiser.revision,
        seed=context.seed,
        count=count,
        shard_size=shard_size or max(16, min(SHARD_SIZE, SHARD_BYTES // (p.height * p.width * p.channels))),
        batch_size=min(batch_size, len(context.data)),
        per_draw=synthesiser.count,
        match=match,
        data=source_card(context.data),
        height=p.height,
        width=p.width,
        channels=p.channels,
        classifier=weights_digest(context.module.classifier) if used else None,
        model=None if shared is None else shared.identity(folder),
        class_names=context.data.class_names,
        in_distribution=synthesiser.in_distribution,
        versions=versions(),
    )


def _make(folder: Path, card: Card, todo: list[int], synthesiser: ImageSynthesiser, context: PrepareContext) -> None:
    feed, sizes = Feed(context.data), card.shards()
    if len(todo) < len(sizes):
        log.info("%s: making %d of %d shards", folder, len(todo), len(sizes))
    with progress_bar(f"outliers: {card.synthesiser}", sum(-(-sizes[i] // card.per_draw) for i in todo)) as advance:
        for index in todo:
            write_shard(folder, index, _shard(index, sizes[index], card, synthesiser, feed, context, advance))


@torch.no_grad()
def _shard(
    index: int,
    size: int,
    card: Card,
    synthesiser: ImageSynthesiser,
    feed: Feed,
    context: PrepareContext,
    advance: Any,
) -> Rows:
    """The images of one shard; a smaller one holds the first of a larger one."""
    generator = torch.Generator(context.device).manual_seed(shard_seed(card.seed, index))
    synthesiser.total = (index + 1) * card.shard_size  # so that what is drawn depends on no later shard
    torch.manual_seed(shard_seed(card.seed, index))  # for layers that draw by themselves
    synthesiser.start_epoch(-(-card.shard_size // card.per_draw), generator)
    images: list[np.ndarray] = []
    parents: list[np.ndarray] = []
    origins: list[str] = []
    with contextlib.closing(_batches(feed, card.batch_size, generator, context.device)) as batches:
        for batch in batches:
            made = _outside(synthesiser.sample(batch, generator))
            data = matching.match(made.data, batch.images, card.match, generator)
            pixels = matching.recoded(data.cpu().numpy(), card.match, context.data.codings, generator)
            taken = pixels[: size - len(origins)]
            images.append(taken)
            parents.append(_parents(made, len(taken)))
            origins += [made.origin] * len(taken)
            advance()
            if len(origins) == size:
                break
    width = max(p.shape[1] for p in parents)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in parents]
    return Rows(np.concatenate(images), np.concatenate(padded), origins)


def shard_seed(seed: int, index: int) -> int:
    """A seed of its own for each shard of each store."""
    return int(np.random.SeedSequence([seed, index, 0x0D57]).generate_state(1, np.uint64)[0] >> 1)


def _batches(feed: Feed, size: int, generator: torch.Generator, device: torch.device) -> Generator[IDBatch, None, None]:
    """Random in-distribution batches without end; each image once before any comes again."""
    while True:
        order = torch.randperm(len(feed), generator=generator, device=device)
        yield from feed.batches(order[: len(order) // size * size], size, device)


def _outside(made: Outliers) -> Outliers:
    """Without what is in-distribution after all (`Outliers.labels`)."""
    if made.labels is None:
        return made
    keep = made.labels < 0
    return made._replace(data=made.data[keep], parents=None if made.parents is None else made.parents[keep])


def _parents(made: Outliers, count: int) -> np.ndarray:
    if made.parents is None:
        return np.full((count, 0), -1)
    return made.parents[:count].cpu().numpy()
