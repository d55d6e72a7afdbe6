"""The images of a benchmark for its plan: how many there are, without decoding any; those that are not there by the
sizes that the file states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from guard.benchmark_file import BenchmarkFile
from guard.benchmark_needs import Stated
from guard.data import ImageData, load
from guard.data.forms import open_source
from guard.data.forms.digits import PATTERN
from guard.data.noise import COUNT as NOISE_IMAGES
from guard.data.noise import is_noise
from guard.data.pixels import ArrayPixels
from guard.errors import GuardError, MissingDataError
from guard.manifest import Preprocess
from guard.requests import TrainRequest

from ..outliers.base import list_synthesisers
from ..outliers.sources import weighted
from .file import located
from .plan import PICTURES, STORE
from .sets import COUNT, MADE, Sets

TRAIN, TEST, OUTLIERS = "train", "test", "outliers"


@dataclass(frozen=True)
class Input:
    """Images that a benchmark reads.

    Attributes:
        name: train, test, an OOD set's or a labelled set's; or what `outliers` names.
        given: what the file says.
        images: how many there are; None where nobody knows.
        classes: the classes' names, in the order of labels.
        there: whether they are on this machine.
    """

    name: str
    given: str
    images: int | None
    there: bool
    about: str = ""
    classes: tuple[str, ...] = field(default=(), repr=False)


def inputs(asked: BenchmarkFile, folder: Path) -> list[Input]:
    """Every set of images of the file, and those that methods name."""
    return [_input(asked, folder, name, given, name in _labelled(asked)) for name, given in _named(asked)]


def _labelled(asked: BenchmarkFile) -> set[str]:
    return {TRAIN, TEST, *asked.data.shifted}


def _named(asked: BenchmarkFile) -> Iterator[tuple[str, Any]]:
    yield TRAIN, asked.data.train
    if asked.data.test is not None:
        yield TEST, asked.data.test
    for sets in (asked.data.shifted, asked.ood.near, asked.ood.far, asked.ood.other):
        yield from sets.items()
    seen: set[str] = set()
    for told in (asked.training, *asked.methods.values()):
        given = [what for what, _ in weighted(told["outliers"])] if told.get("outliers") is not None else []
        for what in (*given, *([told[PICTURES]] if told.get(PICTURES) is not None else [])):
            ours = isinstance(what, str) and (what.startswith(STORE) or what in list_synthesisers())
            if not ours and str(what) not in seen:
                seen.add(str(what))
                yield str(what), what


def _input(asked: BenchmarkFile, folder: Path, name: str, given: Any, labelled: bool) -> Input:
    stated = asked.needs.images.get(name)
    about = "" if stated is None else stated.about
    if is_noise(given) or (isinstance(given, str) and given in MADE):
        made = asked.max_images or (COUNT if given in MADE else NOISE_IMAGES)
        return Input(name, str(given), made, True, about)
    place = located(given, folder)
    if _may_be_opened(place):
        try:
            source = open_source(place, labelled=labelled)
            return Input(name, str(given), _at_most(asked, name, len(source)), True, about, tuple(source.class_names))
        except GuardError:  # the benchmark itself says what is wrong with them
            pass
    if stated is None:
        return Input(name, str(given), None, False, about)
    return Input(name, str(given), _at_most(asked, name, stated.images), False, about, _classes(asked, stated))


def _classes(asked: BenchmarkFile, stated: Stated) -> tuple[str, ...]:
    """Names for so many classes, those that are left out among them."""
    named = dict.fromkeys(name for choice in asked.data.leave_out for name in choice)
    return (*named, *(f"class {i}" for i in range(stated.classes or 0)))[: stated.classes or 0]


def _may_be_opened(place: Any) -> bool:
    """Whether opening it asks no network: a path that is there, digits, or images in memory."""
    if not isinstance(place, str | Path):
        return True
    return Path(place).exists() or bool(PATTERN.fullmatch(str(place)))


def _at_most(asked: BenchmarkFile, name: str, images: int) -> int:
    return images if name == TRAIN or asked.max_images is None else min(images, asked.max_images)


def stated_sets(asked: BenchmarkFile, found: list[Input], request: TrainRequest) -> Sets:
    """Sets of black images in the numbers that are known, none of which takes memory.

    Raises:
        MissingDataError: the size of the training images is neither there nor stated.
    """
    by_name = {one.name: one for one in found}
    train = by_name[TRAIN]
    if train.images is None or len(train.classes) < 2:
        raise MissingDataError(
            f"data.train={train.given!r} is not there, and the file does not say how large it is; give "
            "needs: {images: {train: {images: 50000, classes: 100}}}, or --set data.train=PATH"
        )
    preprocess = _preprocess(request)
    ood = {
        name: _standing_in(by_name[name], preprocess) for name in (*asked.ood.near, *asked.ood.far, *asked.ood.other)
    }
    shifted = {name: _standing_in(by_name[name], preprocess) for name in asked.data.shifted}
    test = None
    if asked.data.test is not None:
        there = by_name[TEST]
        test = _standing_in(replace(there, classes=there.classes or train.classes), preprocess)
    source = _standing_in(train, preprocess)
    return Sets(source, test, ood, tuple(asked.ood.near), tuple(asked.ood.far), shifted=shifted)


def _preprocess(request: TrainRequest) -> Preprocess:
    """How images of the asked size become pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return load(
        (noise, np.array([0, 0, 1, 1])), image_size=request.image_size, channels=request.in_chans, geometry=request
    ).preprocess


def _standing_in(one: Input, preprocess: Preprocess) -> ImageData:
    count = one.images or 1
    black = np.zeros((1, preprocess.height, preprocess.width, preprocess.channels), dtype=np.uint8)
    labels = np.arange(count) % len(one.classes) if one.classes else None
    return ImageData(
        name=one.name,
        class_names=one.classes,
        labels=labels,
        preprocess=preprocess,
        fingerprint="stated",
        rows=np.arange(count),
        corrupt=(),
        pixels=ArrayPixels(np.broadcast_to(black, (count, *black.shape[1:]))),
    )


def known(found: list[Input]) -> Mapping[str, int]:
    """Images by name, 0 where nobody knows."""
    return {one.name: one.images or 0 for one in found}
