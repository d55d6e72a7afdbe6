"""The images of a benchmark, opened once before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from guard.benchmark_file import BenchmarkFile
from guard.data import ImageData, load
from guard.data.classes import match_classes
from guard.data.left_out import leave_out
from guard.data.noise import is_noise, noise_images
from guard.demo import images as demo_images
from guard.errors import ConfigError, MissingDataError
from guard.manifest import Preprocess
from guard.requests import TrainRequest

from ..cache.keyed import digest, images_identity
from .file import located

MADE: dict[str, Callable[..., np.ndarray]] = {  # with the seed 0
    "letters": demo_images.letters,
    "photo_patches": demo_images.photo_patches,
    "smooth_noise": demo_images.smooth_noise,
}
LEFT_OUT = "left-out classes"  # the near-OOD set of `data.leave_out`
SOURCE, TEST = " source", " test"  # no names of OOD sets
COUNT = 400  # images of each set that is made


@dataclass(frozen=True)
class Sets:
    """Attributes:
    source: labelled images, of which each seed holds some out.
    test: labelled test images in the order of its classes; None: those held out.
    ood: OOD images by name, near ones first, then far ones, then those that count in no mean.
    near, far: the names of such ones.
    left_out: the classes that `LEFT_OUT` among them holds, where `data.leave_out` names some.
    shifted: further labelled images by name, of some of the classes.
    """

    source: ImageData
    test: ImageData | None
    ood: dict[str, ImageData]
    near: tuple[str, ...]
    far: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    shifted: dict[str, ImageData] = field(default_factory=dict)
    _identities: dict[str, str] = field(default_factory=dict, repr=False)

    def identity(self, name: str) -> str:
        """Hex digits of which images these are, and how they were read: an OOD set's, `SOURCE` or `TEST`."""
        if name not in self._identities:
            self._identities[name] = digest(images_identity(self._called(name)))
        return self._identities[name]

    def _called(self, name: str) -> ImageData:
        if name in self.ood:
            return self.ood[name]
        images = self.source if name == SOURCE else self.test
        assert images is not None  # nobody asks for test images that are not there
        return images


def open_sets(asked: BenchmarkFile, folder: Path, request: TrainRequest) -> Sets:
    """Every set of the file.

    Args:
        request: of a training, which says how images become pixels.

    Raises:
        MissingDataError, DataError: a path that is not there, or images that cannot be used.
        ConfigError: no OOD sets, or one name twice.
    """
    names = [*asked.ood.near, *asked.ood.far, *asked.ood.other, *([LEFT_OUT] if asked.data.leave_out else [])]
    if not names:
        raise ConfigError("the benchmark has no OOD sets; give some, like ood: {far: {mnist: ood/mnist.parquet}}")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two OOD sets of the benchmark are called {name!r}; rename one")
    with _saying_where(folder):
        source = load(
            located(asked.data.train, folder),
            image_size=request.image_size,
            channels=request.in_chans,
            geometry=request,
            workers=request.workers,
        )
        most: dict[str, Any] = {"max_images": asked.max_images, "draw": 0, "workers": request.workers}
        all_of_them = {**most, "max_images": None} if asked.data.leave_out else most
        test = None if asked.data.test is None else _test(located(asked.data.test, folder), source, all_of_them)
        shifted = {n: _test(located(images, folder), source, most) for n, images in asked.data.shifted.items()}
        every = {**asked.ood.near, **asked.ood.far, **asked.ood.other}
        ood = {n: _ood(n, located(images, folder), source.preprocess, most) for n, images in every.items()}
    return Sets(source, test, ood, tuple(asked.ood.near), tuple(asked.ood.far), shifted=shifted)


def by_choice(asked: BenchmarkFile, every: Sets) -> list[Sets]:
    """The sets of each choice of `data.leave_out`; without any, as they are.

    Where there are test images, the near-OOD set is of them: neither has part in any training then.
    """
    return [_without(every, names, asked.max_images) for names in asked.data.leave_out] or [every]


def _without(every: Sets, names: tuple[str, ...], most: int | None) -> Sets:
    source, near = leave_out(every.source, names)
    test = None
    if every.test is not None:
        test, near = leave_out(every.test, names)
        test = load(test, max_images=most, draw=0)
    near = load(near, labelled=False, max_images=most, draw=0)
    return Sets(source, test, {LEFT_OUT: near, **every.ood}, (LEFT_OUT, *every.near), every.far, names)


class _saying_where:
    """What is not there is said with the folder that was looked in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, MissingDataError):
            raise MissingDataError(f"{error}; relative paths are looked up in {self.folder}") from None


def _test(given: Any, source: ImageData, most: dict[str, Any]) -> ImageData:
    """Labelled test images, with their labels in the order of the source's classes."""
    images = load(given, preprocess=source.preprocess, all_classes=False, **most)
    assert images.labels is not None  # loaded as labelled
    labels, _ = match_classes(images.labels, images.class_names, source.class_names, images.name)
    return replace(images, labels=labels, class_names=source.class_names)


def _ood(name: str, given: Any, preprocess: Preprocess, most: dict[str, Any]) -> ImageData:
    if is_noise(given):
        return noise_images(given, preprocess, most["max_images"], name=name)
    if isinstance(given, str) and given in MADE:
        side = max(preprocess.height, preprocess.width)
        given = MADE[given](most["max_images"] or COUNT, side)
    return load(given, preprocess=preprocess, labelled=False, name=name, **most)
