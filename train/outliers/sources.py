"""``outliers=``: images, stores and names of synthesisers, one or several, with weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guard.data import ImageData, load
from guard.errors import ConfigError
from guard.manifest import Preprocess

from .base import OutlierMix, list_synthesisers
from .store.card import NAME as CARD
from .store.store import open_store


def outlier_mix(given: Any, preprocess: Preprocess, workers: int | None = None) -> OutlierMix | None:
    """Open what ``outliers=`` may be.

    Args:
        given: None; the name of a synthesiser; images in any form that `load` takes (a store's folder is one); a
            list of these; or a mapping of name or path to weight.
        preprocess: how the in-distribution images became pixels; outliers are read the same way.

    Returns:
        Images, or a synthesiser's name, with a weight each; None for None.

    Raises:
        ConfigError: a weight that is no number above 0, or an empty list or mapping.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        weighted = list(given.items())
    elif isinstance(given, list) and all(isinstance(item, str | Path) for item in given):
        weighted = [(item, 1.0) for item in given]
    else:
        weighted = [(given, 1.0)]
    if not weighted:
        raise ConfigError("outliers= is empty; name at least one source, or leave it away")
    mix: dict[ImageData | str, float] = {}
    for what, weight in weighted:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ConfigError(f"the weight of outliers {str(what)!r} must be a number above 0, got {weight!r}")
        mix[_source(what, preprocess, workers)] = float(weight)
    return mix


def _source(what: Any, preprocess: Preprocess, workers: int | None) -> ImageData | str:
    """A synthesiser's name as it is; a store, which must be whole; any other images."""
    if isinstance(what, str) and what in list_synthesisers():
        return what
    if isinstance(what, str | Path) and (Path(what) / CARD).exists():
        return open_store(what).images(preprocess, workers)
    return load(what, preprocess=preprocess, labelled=False, workers=workers)


def mix_fingerprint(mix: OutlierMix | None) -> str | None:
    """What identifies the sources and their weights."""
    if mix is None:
        return None
    names = [what if isinstance(what, str) else what.fingerprint for what in mix]
    if len(names) == 1:
        return names[0]
    return " + ".join(f"{weight:g} {name}" for name, weight in zip(names, mix.values(), strict=True))
