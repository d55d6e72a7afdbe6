"""Which files of a folder are one split of one data set, by their names.

train.parquet                                            train
data/train-00000-of-00002-38cc4fa96c139e86.parquet       train
plain_text/test-00000-of-00001.parquet                   test of the configuration plain_text
default/train/0000.parquet                               train of the configuration default
cifar10-train.parquet                                    train
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

from ...errors import DataError
from .listing import SUFFIXES, is_aside
from .nesting import SplitsError, is_split

#: What a file's name has beside the split: a shard's number, a count, a hash.
_PARTS = re.compile(r"([-_.]?\d+[-_.]of[-_.]\d+)?([-_.]?(?=[0-9a-f]*\d)[0-9a-f]{16,})?$")
_NUMBER = re.compile(r"(^|[-_.])(part|shard|chunk)?[-_.]?\d+$")
_SPARK = re.compile(r"part-\d+-[0-9a-f]{8}-")
_FOLD = re.compile(r"(fold|split)[-_.]?\d+", re.IGNORECASE)
_PLAIN_FOLDERS = {"", "data", "default"}  # these name no configuration


def shards_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files with these suffixes in a folder and below, sorted; empty where there are none, or images too.

    Raises:
        DataError: several splits or several configurations: training and test images must not be mixed by accident; or
            images directly beside them, so that either may be meant.
    """
    files = _below(folder, suffixes)
    direct = [file for file in files if file.parent == folder]
    return one_split_of(folder, direct or files)


def one_split_of(folder: Path, files: Sequence[Path]) -> list[Path]:
    """`files`, which must be of one split and configuration.

    Raises:
        DataError: names the others, and the way to give one.
    """
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        configuration, split = _place(file.relative_to(folder))
        found[configuration][split].append(file)
    if len(found) > 1:
        first = found[sorted(found)[0]]
        place = os.path.commonpath([file.parent for shards in first.values() for file in shards])
        names = _listed(sorted(name or "." for name in found))
        raise DataError(f"{folder} holds the configurations {names}; give one, e.g. {place}")
    splits = next(iter(found.values()), {})
    if len(splits) > 1:
        one = next((name for name in splits if "train" in name.lower()), min(splits))
        also = "" if any(map(is_split, splits)) else f", or all of them as {_pattern(list(files))}"
        raise SplitsError(
            f"{folder} holds several splits ({_listed(sorted(splits))}); give one, e.g. {_pattern(splits[one])}{also}"
        )
    return sorted(files)


def split_name(stem: str) -> str:
    """What the name of a file says beside its shard's number, its count and its hash; "" where it says no more."""
    if _SPARK.match(stem):
        return ""
    name = _PARTS.sub("", stem)
    name = _NUMBER.sub("", name) if not is_split(name) else name
    return name.strip("-_. ")


def _place(file: Path) -> tuple[str, str]:
    """(configuration, split): by the file's own name, else by its folder's."""
    folders, split = list(file.parent.parts), split_name(file.stem)
    if folders and (not split or (is_split(folders[-1]) and not is_split(split))):
        split = folders.pop()
    if fold := _FOLD.search(split):
        split = fold[0]
    elif words := [word for word in re.split(r"[-_.]", split) if is_split(word)]:
        split = words[-1]
    return "/".join(part for part in folders if part.lower() not in _PLAIN_FOLDERS), split


def _pattern(files: Sequence[Path]) -> str:
    """One file, or a pattern for just these."""
    if len(files) == 1:
        return str(files[0])
    folder = files[0].parent
    if {file.parent for file in files} != {folder}:
        return os.path.commonpath([file.parent for file in files])
    first, last = min(file.name for file in files), max(file.name for file in files)
    start = first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    for pattern in (f"{start.rstrip('0123456789')}*{files[0].suffix}", f"{start}*{files[0].suffix}"):
        if set(folder.glob(pattern)) == set(files):
            return str(folder / pattern)
    return str(folder if set(folder.glob(f"*{files[0].suffix}")) == set(files) else folder / f"{start}*")


def either(folder: PurePath, picture: str, table: PurePath) -> DataError:
    """Of images and a table directly in one folder, where either may be meant."""
    return DataError(f"{folder} holds images ({picture}) beside {table.name}; give the one ({table}), or move it away")


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with these suffixes in a folder and below; empty where images lie below.

    Raises:
        DataError: such files and images directly in the folder.
    """
    found: list[Path] = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_aside(name))
        files = sorted(name for name in files if not name.startswith("."))
        found += [Path(here, name) for name in files if name.lower().endswith(suffixes)]
        picture = next((name for name in files if name.lower().endswith(SUFFIXES)), None)
        if picture is not None and found and found[0].parent == folder == Path(here):
            raise either(folder, picture, found[0])
        if picture is not None:
            return []
    return sorted(found)


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
