"""Folders inside folders: splits are never taken for classes, and images of sub-folders never merged without a word."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ...errors import DataError

_SPLIT_WORDS = {
    *("train", "training", "trn", "test", "testing", "tst", "val", "valid", "validation", "dev", "eval"),
    *("evaluation", "holdout", "fold", "split"),
}
_FILLERS = {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "folder", "part", "full", "new"}
_STRAY = 0.1  # the share of images beside the sub-folders that may be strays
_REMEMBERED = 50  # earlier folders that each is compared with


class SplitsError(DataError):
    """Several splits where one is needed."""


@dataclass(frozen=True)
class Nesting:
    """How a folder's images lie in it.

    Attributes:
        inner: the way to where it divides: "" or "images" where everything lies in one sub-folder of that name.
        names: the sub-folders that hold images there.
        direct: whether more than strays lie beside those.
    """

    inner: str = ""
    names: tuple[str, ...] = ()
    direct: bool = True

    @property
    def divides(self) -> bool:
        return bool(self.names) and not self.direct

    @property
    def keys(self) -> set[str]:
        return {name.casefold() for name in self.names}


def nesting(folder: PurePath, images: Sequence[PurePath]) -> Nesting:
    """Where the images of a folder lie."""
    start = len(os.fspath(folder)) + 1
    ways = [os.fspath(image)[start:].replace(os.sep, "/").split("/")[:-1] for image in images]
    inner: list[str] = []
    while ways and all(ways) and len({way[0] for way in ways}) == 1:
        inner.append(ways[0][0])
        ways = [way[1:] for way in ways]
    names = Counter(way[0] for way in ways if way)
    direct = len(ways) - names.total() > _STRAY * len(ways) or not names
    return Nesting("/".join(inner), tuple(sorted(names)), direct)


def is_split(name: str) -> bool:
    """Whether a folder or file of this name is a split: train, Validation, test_set, imgs-train2017, fold1."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return bool(set(words) & _SPLIT_WORDS) and set(words) <= _SPLIT_WORDS | _FILLERS


def check_nesting(root: PurePath, folders: Mapping[str, Nesting]) -> str:
    """Refuse folders that are splits, or that may be.

    Args:
        folders: the folders in `root` that hold images, by name.

    Returns:
        What to tell of sub-folders whose images are taken into their class; "" where there are none.

    Raises:
        SplitsError: they are splits by their names, or may be by their sub-folders' names.
    """
    splits = [name for name in folders if is_split(name)]
    if len(splits) > 1 or (splits and len(splits) == len(folders)):
        raise SplitsError(
            f"{root} looks like splits, not classes ({_listed(splits)}); give one of them, e.g. "
            f"{_way(root, _best(splits), folders)}"
        )
    dividing = {name: found for name, found in folders.items() if found.divides}
    if len(folders) == 1 and dividing:
        ((name, found),) = dividing.items()
        inside = [part for part in found.names if is_split(part)]
        raise SplitsError(
            f"{root} holds one folder, {name}, with the sub-folders {_listed(found.names)}; give "
            f"{_way(root, name, folders)}{'/' + _best(inside) if inside else ''}"
        )
    if suspects := _alike(dividing) or [name for name in splits if name in dividing] or _repeating(folders, dividing):
        shared = _listed(folders[suspects[-1]].names)
        raise SplitsError(
            f"{root} holds {_listed(suspects)} with sub-folders ({shared}), so these may be splits, not classes; give "
            f"one, e.g. {_way(root, _best(suspects), folders)}; or, where they are classes, move the images out of "
            "the sub-folders"
        )
    merged = {name: found for name, found in folders.items() if found.names}
    if not merged:
        return ""
    name = next(iter(merged))
    return (
        f"{len(merged)} classes of {root} take the images of their sub-folders too (e.g. {name}: "
        f"{_listed(merged[name].names)}); classes are the folders directly in the one that is given"
    )


def _alike(dividing: Mapping[str, Nesting]) -> list[str]:
    """Two folders that divide alike: half of the smaller one's sub-folders, two at least, or all of them, are in both;
    [] where there are none."""
    holders: dict[str, list[str]] = defaultdict(list)
    for name, found in dividing.items():
        shared = Counter(other for key in found.keys for other in holders[key][:_REMEMBERED])
        for other, count in shared.most_common():
            fewest = min(len(found.keys), len(dividing[other].keys))
            if count == fewest or (count >= 2 and 2 * count >= fewest):
                return [other, name]
        for key in found.keys:
            holders[key].append(name)
    return []


def _repeating(folders: Mapping[str, Nesting], dividing: Mapping[str, Nesting]) -> list[str]:
    """A folder whose sub-folders are the others once more, as in a copy; [] where there is none."""
    beside = {name.casefold() for name in folders}
    for name, found in dividing.items():
        if 2 * len(found.keys & beside) >= len(found.keys):
            return [name]
    return []


def _best(names: Sequence[str]) -> str:
    """The one to train on, by name."""
    return next((name for name in names if "train" in name.lower()), names[0])


def _way(root: PurePath, name: str, folders: Mapping[str, Nesting]) -> str:
    inner = folders[name].inner
    return os.fspath(root / name / inner) if inner and folders[name].names else os.fspath(root / name)


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = [name if len(name) <= 30 else name[:27] + "..." for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
