"""ImageNet's classes under their two names: the synset "n01440764", and "tench, Tinca tinca" as models have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guard.data.classes import ClassOrder, class_order, plain


def class_order_by_synset(
    answers: int, data_names: Sequence[str], model_names: Sequence[str], given: Sequence[str] | None, labels: Any
) -> ClassOrder:
    """`class_order`, where folders called by synsets are the classes of a model that has words for them, or the other
    way round; only where each has one counterpart (ImageNet has two cranes)."""
    names = tuple(given or model_names)
    theirs = _counterparts(tuple(data_names), names) if names else None
    order = class_order(answers, theirs or data_names, model_names, given, labels)
    return replace(order, data_names=tuple(data_names)) if theirs else order


def _counterparts(data_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """For each of `data_names` the one of `names` that is the same class; None where that is not known of all."""
    if _synsets(data_names) and not any(map(_is_synset, names)):
        words = _words(data_names)
        found = [[name for name in names if plain(name) in words[synset]] for synset in data_names]
    elif _synsets(names) and not any(map(_is_synset, data_names)):
        words = _words(names)
        found = [[synset for synset in names if plain(name) in words[synset]] for name in data_names]
    else:
        return None
    alone = [fit[0] for fit in found if len(fit) == 1]
    return tuple(alone) if len(set(alone)) == len(data_names) else None


def _is_synset(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name, re.ASCII) is not None


def _synsets(names: tuple[str, ...]) -> bool:
    return all(map(_is_synset, names))


def _words(synsets: Sequence[str]) -> dict[str, set[str]]:
    """What each synset may be called, as `plain` has it: all its words, or one of them."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo()
    known = set(info.label_names())
    found: dict[str, set[str]] = {}
    for synset in synsets:
        words = str(info.label_name_to_description(synset)) if synset in known else ""
        found[synset] = {plain(words), *map(plain, words.split(", "))} if words else set()
    return found
