"""Outlier stores: a folder of Parquet shards and a card, filled once and drawn from in training.

    shard-00000.parquet ...   images (PNG), parent classes, how each was made      shards.py
    card.json                 how all were made; what an audit found               card.py
    gallery.html              a page to look at                                    gallery.py
    (whatever the synthesiser trained to make them)

A shard is written whole or not at all and depends on (seed, its number) alone: a run that was killed goes on at the
first missing shard and ends with the same bytes, and a store that is asked for more images grows. A folder whose card
says otherwise is refused, never mixed. `guard.data.load(folder, labelled=False)` and `datasets` read a store as images.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from guard.data import ImageData, load
from guard.errors import ArtefactDamagedError, ConfigError
from guard.manifest import Preprocess, versions

from ...cache.shared_model import SharedOptions
from ...engine.checkpoint import weights_bytes
from ...engine.distributed import processes
from ...engine.loader import Feed
from ...engine.stages import progress_bar
from .. import matching
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, Synthesiser
from .card import Card, check_same, existing_card, read_card, source_card, write_card
from .shards import Rows, count_rows, shard_path, write_shard

log = logging.getLogger("ood_guard")

SHARD_SIZE = 1000  # images; a kill loses at most these
SHARD_BYTES = 64 * 2**20  # of pixels; large images get smaller shards
MOST_BY_DEFAULT = 50_000
BATCH_SIZE = 128


@dataclass(frozen=True)
class Store:
    """An outlier store: its folder and what its card says."""

    folder: Path
    card: Card

    def __len__(self) -> int:
        return self.card.count

    @property
    def gallery(self) -> Path | None:
        """Its page, where there is one."""
        path = self.folder / "gallery.html"
        return path if path.exists() else None

    def paths(self) -> list[Path]:
        """Its shards, in order."""
        return [shard_path(self.folder, i) for i in range(len(self.card.shards()))]

    def images(self, preprocess: Preprocess | None = None, workers: int | None = None) -> ImageData:
        """Its images, read as in-distribution images of `preprocess` are; default as they are.

        Raises:
            ArtefactDamagedError: shards are missing, or hold images that cannot be read.
        """
        card = self.card
        missing = missing_shards(self.folder, card)
        if missing:
            raise ArtefactDamagedError(
                f"{self.folder} lacks {len(missing)} of its {len(card.shards())} shards "
                f"(the first is {shard_path(self.folder, missing[0]).name}); make the store again, which goes on there"
            )
        own = Preprocess(height=card.height, width=card.width, channels=1 if card.channels == 1 else 3)
        found = load(str(self.folder), preprocess=preprocess or own, labelled=False, workers=workers)
        if found.corrupt:
            raise ArtefactDamagedError(
                f"{found.corrupt[0]}; remove that shard and make the store again, which makes only what is missing"
            )
        return found


def open_store(folder: str | Path) -> Store:
    """The store in `folder`, whole or not.

    Raises:
        ArtefactNotFoundError, ArtefactDamagedError, ArtefactVersionError: with a sentence that says which.
    """
    return Store(Path(folder), existing_card(Path(folder)))


def missing_shards(folder: Path, card: Card) -> list[int]:
    """Numbers of the shards that are not there, cannot be read, or hold another number of images."""
    return [i for i, size in enumerate(card.shards()) if count_rows(shard_path(folder, i)) != size]


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
    """Make a store, go on with one, or open one that is whole already (without any work).

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
        inside = replace(context, folder=folder)
        if us.world > 1:
            synthesiser.prepare_together(inside, us)
        with us.main_process_first():  # what is trained first is trained once
            synthesiser.prepare(inside)
            card = _with_model(folder, card, synthesiser)
            if us.is_first:
                write_card(folder, card)
        _make(folder, card, us.share(missing_shards(folder, card)), synthesiser, context)
    us.wait()
    return Store(folder, card)


def _agreed(folder: Path, card: Card, synthesiser: ImageSynthesiser, any_classifier: bool) -> tuple[Card, bool]:
    """The card to go on with where `card` is asked for, and whether nothing is left to be made."""
    held = read_card(folder)
    begun = folder.is_dir() and any(folder.glob("*.parquet"))
    if held is not None and begun:  # a card alone is of a run that was stopped before it made anything
        whole = not missing_shards(folder, held)
        if any_classifier and whole:
            card = card.model_copy(update={"classifier": held.classifier})
        shared = _shared(synthesiser)
        if shared is not None and shared.knobs:  # one may have said how many are drawn at once, when it was begun
            card = card.model_copy(update={"per_draw": held.per_draw})
        check_same(folder, held, card, _not_compared(held, shared))
        if whole and held.count == card.count:
            return held, True
        return card.model_copy(update={"model": held.model}), False
    if begun:
        raise ConfigError(f"{folder} holds Parquet files and no store; choose another folder for the outliers")
    return card, False


def _shared(synthesiser: ImageSynthesiser) -> SharedOptions | None:
    """The options of a model that runs can share, where it decodes with one."""
    return synthesiser.options if isinstance(synthesiser.options, SharedOptions) else None


def _not_compared(held: Card, shared: SharedOptions | None) -> set[str]:
    """Fields of the card that decide no image: knobs, and those whose place the model's own digest takes."""
    if shared is None:
        return set()
    settled = shared.settled() if held.model is not None or not shared.is_ours else frozenset()
    return {f"options.{name}" for name in shared.knobs | settled}


def _with_model(folder: Path, card: Card, synthesiser: ImageSynthesiser) -> Card:
    """The card, with the model that is there once it is prepared.

    Raises:
        ConfigError: what the store holds was made by another.
    """
    shared = _shared(synthesiser)
    if shared is None:
        return card
    found = card.model_copy(update={"model": shared.identity(folder) or card.model})
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
    shared = _shared(synthesiser)
    return Card(
        synthesiser=synthesiser.name,
        options=synthesiser.options.model_dump(mode="json"),
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
        classifier=hashlib.sha256(weights_bytes(context.module.classifier)).hexdigest()[:16] if used else None,
        model=None if shared is None else shared.identity(folder),
        class_names=context.data.class_names,
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


def check_seed(seed: Any) -> None:
    """Refuse what is no seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be an integer from 0 to 2^31 - 1, got {seed!r}")


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


class Stored(Synthesiser):
    """Draws from a store that it fills when its stage begins: ``out/outliers/<name>`` in a training run.

    For synthesisers whose images take long (a generator), and for any whose images should be fixed, so that the
    features of a frozen network are computed once.

    Args:
        synthesiser: what makes the images; its own `count` is what it makes per draw, not what a step takes.
        count_per_step: K, the outliers of one training step.
        total: images in the store; default as many as there are training images, at most 50,000.
        match: as in `fill`.
        name: of the folder; default the synthesiser's.
    """

    space: ClassVar = "image"

    def __init__(
        self,
        synthesiser: ImageSynthesiser,
        count_per_step: int,
        total: int | None = None,
        match: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.count, self.total, self.match = count_per_step, total, matching.checked(match)
        self.name = name or synthesiser.name
        self._wrapped = [synthesiser]  # no sub-module: checkpoints need not hold what the folder holds
        self._source: Synthesiser | None = None

    @property
    def synthesiser(self) -> ImageSynthesiser:
        """What makes the images."""
        return self._wrapped[0]

    def prepare(self, context: PrepareContext) -> None:
        from ..images.given import Given

        total = self.total or min(MOST_BY_DEFAULT, len(context.data))
        store = fill(
            context.folder / self.name, self.synthesiser, context, total, match=self.match, any_classifier=True
        )
        self.synthesiser.to("cpu")
        self._source = Given(store.images(context.data.preprocess), self.count)

    def pool(self) -> ImageData | None:
        return self._drawn_from().pool()

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self._drawn_from().start_epoch(steps, generator)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return self._drawn_from().sample(batch, generator)._replace(origin=self.name)

    def _drawn_from(self) -> Synthesiser:
        if self._source is None:
            raise ConfigError(f"the store of {self.name!r} is not filled yet; call prepare(context) first")
        return self._source
