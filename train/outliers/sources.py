"""``outliers=``: images, stores and names of synthesisers, one or several, with weights.

outlier_mix    opens what was given
image_source   makes the synthesiser of it, for so many outliers per step
Mixture        several sources in one
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from guard.data import ImageData, load
from guard.data.forms.names import folder_of_that_name
from guard.data.union import union
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Preprocess
from guard.paths import expanded, unusable

from .base import (
    IDBatch,
    OutlierMix,
    Outliers,
    PrepareContext,
    Synthesiser,
    create_synthesiser,
    get_synthesiser,
    list_synthesisers,
)
from .store.card import NAME as CARD
from .store.card import source_card
from .store.drawing import Given, Stored
from .store.store import Store, open_store

log = logging.getLogger("ood_guard")


def outlier_mix(
    given: Any, preprocess: Preprocess, workers: int | None = None, train: ImageData | None = None
) -> OutlierMix | None:
    """Open what ``outliers=`` may be.

    Args:
        given: None; the name of a synthesiser; images in any form that `load` takes (a store's folder is one); a
            list of these; or a mapping of name or path to weight.
        preprocess: how the in-distribution images became pixels; outliers are read the same way.
        train: the images that are trained on; a store that was made of others of the same data is warned of.

    Returns:
        Images, or a synthesiser's name, with a weight each; None for None.

    Raises:
        ConfigError: a weight that is not a number above 0, or an empty list or mapping.
    """
    if given is None:
        return None
    return {_source(what, preprocess, workers, train): weight for what, weight in weighted(given)}


def weighted(given: Any) -> list[tuple[Any, float]]:
    """What ``outliers=`` names, each with its weight.

    Raises:
        ConfigError: a weight that is not a number above 0, or an empty list or mapping.
    """
    pairs: list[tuple[Any, Any]] = [(given, 1.0)]
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list) and all(isinstance(item, str | Path) for item in given):
        pairs = [(item, 1.0) for item in given]
    if not pairs:
        raise ConfigError("outliers= is empty; name at least one source, or omit it")
    for what, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ConfigError(f"the weight of outliers {str(what)!r} must be a number above 0, got {weight!r}")
    return [(what, float(weight)) for what, weight in pairs]


def _source(what: Any, preprocess: Preprocess, workers: int | None, train: ImageData | None) -> ImageData | str:
    """A synthesiser's name as it is; a store, which must be whole; any other images."""
    if isinstance(what, str) and what in list_synthesisers():
        folder_of_that_name(what, "the synthesiser")
        _check_outside(what, what, get_synthesiser(what).in_distribution)
        return what
    what = expanded(what) if isinstance(what, str | Path) and not unusable(what) else what
    if isinstance(what, Path) and (what / CARD).exists():
        store = open_store(what)
        maker = store.card.synthesiser
        inside = maker in list_synthesisers() and get_synthesiser(maker).in_distribution  # older cards do not say
        _check_outside(str(what), maker, store.card.in_distribution or inside)
        if train is not None:
            _warn_if_of_held_out(store, train)
        return store.images(preprocess, workers)
    return load(what, preprocess=preprocess, labelled=False, workers=workers)


def _warn_if_of_held_out(store: Store, train: ImageData) -> None:
    """Of a store that was made of other rows of this data than are trained on."""
    made_of, ours = store.card.data, source_card(train)
    if made_of.fingerprint == ours.fingerprint and made_of.rows != ours.rows:
        log.warning(
            "the outliers in %s were made of other rows of %s than are trained on; they may show held-out images: make "
            "them with the same seed=, calibration= and test=, or with classifier= the run that this one begins with",
            store.folder,
            train.name,
        )


def _check_outside(given: str, maker: str, inside: bool) -> None:
    if inside:
        raise ConfigError(
            f"outliers={given[:200]!r} holds in-distribution images: {maker!r} makes further ones of your classes; "
            "give images of none of them, or train with them by method='dream_id'"
        )


def mix_fingerprint(mix: OutlierMix | None) -> str | None:
    """What identifies the sources and their weights."""
    if mix is None:
        return None
    names = [what if isinstance(what, str) else what.fingerprint for what in mix]
    if len(names) == 1:
        return names[0]
    return " + ".join(f"{weight:g} {name}" for name, weight in zip(names, mix.values(), strict=True))


def image_source(outliers: OutlierMix | None, count: int, num_classes: int) -> Synthesiser:
    """The synthesiser behind ``outliers=``: image sets and names of synthesisers with weights; `count` per step.

    Synthesisers that train something first draw from a store.
    """
    if not outliers:
        raise ConfigError("this method learns from outlier images; give some: outliers='folder/of/images'")

    def source(what: ImageData | str, n: int) -> Synthesiser:
        if not isinstance(what, str):
            return Given(what, n)
        synthesiser = create_synthesiser(what, n, num_classes)
        return Stored(synthesiser, n) if synthesiser.prepared else synthesiser

    if len(outliers) == 1:
        return source(next(iter(outliers)), count)
    return Mixture(outliers, count, source)


def looking_sources(outliers: OutlierMix) -> list[str]:
    """Those of ``outliers=`` that are made, once, of what a trained classifier looks at."""
    named = [what for what in outliers if isinstance(what, str)]
    return [
        name for name in named if (kind := get_synthesiser(name)).prepared and kind.needs_classifier(kind.Options())
    ]


def shares(weights: list[float], count: int) -> list[int]:
    """`count` divided in proportion to `weights` (> 0), each at least 1, by largest remainders.

    Raises:
        ConfigError: a weight is not positive, or `count` is smaller than the number of weights.
    """
    if min(weights) <= 0:
        raise ConfigError(f"weights of outlier sources must be above 0, got {min(weights)}")
    if count < len(weights):
        raise ConfigError(
            f"{len(weights)} outlier sources need at least as many outliers per step, got {count}; give "
            "a larger batch_size, more outliers per image, or fewer sources"
        )
    spare = count - len(weights)
    exact = [spare * w / sum(weights) for w in weights]
    given = [int(x) for x in exact]
    order = sorted(range(len(weights)), key=lambda i: given[i] - exact[i])
    for i in order[: spare - sum(given)]:
        given[i] += 1
    return [1 + n for n in given]


class Mixture(Synthesiser):
    """`count` outliers per step from several sources, in proportion to their weights.

    Args:
        weights: what -> weight; `make` turns a what and its count into a synthesiser.
    """

    space: ClassVar = "image"

    def __init__(self, weights: Mapping[Any, float], count: int, make: Callable[[Any, int], Synthesiser]) -> None:
        super().__init__()
        counts = shares(list(weights.values()), count)
        self.parts = nn.ModuleList(make(what, n) for what, n in zip(weights, counts, strict=True))
        self.count = count
        self._pool: ImageData | None = None

    def check(self, context: PrepareContext) -> None:
        for part in self._parts():
            part.check(context)

    def prepare(self, context: PrepareContext) -> None:
        for part in self._parts():
            part.prepare(context)

    def pool(self) -> ImageData | None:
        """The pools of all parts, one after the other; None where one of them has none."""
        if self._pool is None:
            pools = [pool for part in self._parts() if (pool := part.pool()) is not None]
            self._pool = union(pools) if len(pools) == len(self.parts) else None
        return self._pool

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        for part in self._parts():
            part.start_epoch(steps, generator)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {f"{i}.{k}": o for i, part in enumerate(self._parts()) for k, o in part.optimizers().items()}

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = [part.sample(batch, generator) for part in self._parts()]
        data, origin = torch.cat([m.data for m in made]), " + ".join(m.origin for m in made)
        as_is = None
        if not all(part.augmented for part in self._parts()):
            kinds = [
                data.new_full((len(m.data),), not part.augmented) for m, part in zip(made, self._parts(), strict=True)
            ]
            as_is = torch.cat(kinds).bool()
        return Outliers(data, origin, rows=self._rows(made), as_is=as_is)

    def _rows(self, made: list[Outliers]) -> torch.Tensor | None:
        """Rows of the common pool."""
        if self.pool() is None:
            return None
        rows, start = [], 0
        for part, outliers in zip(self._parts(), made, strict=True):
            pool = part.pool()
            if outliers.rows is None or pool is None:
                return None
            rows.append(outliers.rows + start)
            start += len(pool)
        return torch.cat(rows)

    def observe(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        for part in self._parts():
            part.observe(features, labels)

    def ready_after(self, shown: torch.Tensor) -> bool:
        return all(part.ready_after(shown) for part in self._parts())

    def release(self) -> None:
        for part in self._parts():
            part.release()

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {k: v for part in self._parts() for k, v in part.learn(batch, module, generator).items()}

    def _parts(self) -> list[Synthesiser]:
        return list(self.parts)  # type: ignore[arg-type]
