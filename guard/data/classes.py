"""Which class of a model each class of the data is: by name where there are names, else in the order given.

class_order      for `guard.fit`: the model's logits may have no names yet
match_classes    for images of a guard's own classes, which have names
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError, DataError, ModelError
from .image_data import ImageData

log = logging.getLogger("ood_guard")


@dataclass(frozen=True)
class ClassOrder:
    """`names`: one per logit. `positions`: int64 (classes of the data,), the logit of each."""

    names: tuple[str, ...]
    positions: np.ndarray

    def reordered(self, images: ImageData) -> ImageData:
        """The same images with labels in the order of the logits; unlabelled ones as they are."""
        if images.labels is None:
            return images
        return replace(images, labels=self.positions[images.labels], class_names=self.names)


def class_order(
    answers: int, data_names: Sequence[str], model_names: Sequence[str] = (), given: Sequence[str] | None = None
) -> ClassOrder:
    """Match the data's classes to the model's logits.

    By name, where every class of the data is one of `given` or of the model's own; classes without images are allowed
    then, and logged. Otherwise there must be as many of them as logits, in the order of the logits.

    Args:
        answers: how many logits the model gives.
        data_names: the data's classes in the order of its labels; "0", "1", ... where they have no names.
        model_names: what the model brings, one per logit; empty where it brings none.
        given: `class_names` of `guard.fit`, which overrule both.

    Raises:
        ConfigError: `given` has another number of names than the model has logits.
        DataError: classes that the model does not know, or whose name two of its logits have.
        ModelError: another number of classes than logits, and no names to match them by.
    """
    data_names = tuple(data_names)
    names = _names_of_logits(answers, len(data_names), model_names, given)
    in_order = np.arange(len(data_names))
    if data_names == names or (_nameless(data_names) and len(data_names) == answers):
        return ClassOrder(names or data_names, in_order)
    if names and set(data_names) <= set(names):
        return ClassOrder(names, _by_name(data_names, names))
    if len(data_names) != answers:
        raise _other_number(answers, data_names, names)
    if given:
        return ClassOrder(names, in_order)
    if names:
        _check_all_renamed(data_names, names)
    return ClassOrder(data_names, in_order)


def _names_of_logits(
    answers: int, classes: int, model_names: Sequence[str], given: Sequence[str] | None
) -> tuple[str, ...]:
    """One name per logit; empty where there are none, or another number of them."""
    names = tuple(given or model_names)
    if given and len(names) != answers and classes == answers:
        raise ConfigError(f"class_names has {len(names)} names for {answers} classes")
    return names if len(names) == answers else ()


def _other_number(answers: int, data_names: tuple[str, ...], names: tuple[str, ...]) -> DataError | ModelError:
    """Why data cannot be matched that has another number of classes than the model."""
    if names and not _nameless(data_names):
        unknown = [name for name in data_names if name not in names]
        return DataError(
            f"the data has classes that the model does not know: {_listed(unknown)}; the model's are "
            f"{_listed(names)}. Rename or remove them, or name all of the model's classes with class_names="
        )
    return ModelError(
        f"the model answers {answers} classes, the data has {len(data_names)} ({', '.join(data_names[:5])} ...); "
        "give data with the model's classes, in the model's order"
    )


def _check_all_renamed(data_names: tuple[str, ...], names: tuple[str, ...]) -> None:
    """As many classes as logits, and other names: taken in their order, unless some are the model's."""
    unknown = [name for name in data_names if name not in names]
    if len(unknown) < len(data_names):
        raise DataError(
            f"some classes of the data have the model's names and {_listed(unknown)} have not; the model's are "
            f"{_listed(names)}. Rename the data's, or name the model's with class_names="
        )
    log.warning(
        "the data's classes (%s) are taken for the model's (%s) in this order", _listed(data_names), _listed(names)
    )


def match_classes(
    labels: np.ndarray, names: tuple[str, ...], guard_names: tuple[str, ...], data_name: str
) -> tuple[np.ndarray, str]:
    """Labels (N,) into `names` -> labels (N,) into `guard_names`, matched by name; and a note where that was not
    possible: arrays come with labels only (their classes are named "0", "1", ...), which are then indices.

    Raises:
        DataError: names that the guard does not have.
    """
    labels = np.asarray(labels)
    if names == guard_names:
        return labels, ""
    unknown = [name for name in names if name not in guard_names]
    if not unknown:
        return _positions(names, guard_names)[labels], ""
    if _nameless(names) and len(names) <= len(guard_names):
        return labels, f"{data_name} has no class names; its labels are taken as the guard's class indices."
    raise DataError(
        f"{data_name} has classes that the guard does not know: {_listed(unknown, 20)}; the guard's are: "
        f"{_listed(guard_names, 20)}. Rename the classes, or give these images as an OOD set"
    )


def _by_name(data_names: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
    twice = [name for name in data_names if names.count(name) > 1]
    if twice:
        raise DataError(
            f"two of the model's classes are named {twice[0]!r}, so the data's cannot be matched to them; "
            "tell them apart with class_names="
        )
    missing = [name for name in names if name not in data_names]
    if missing:
        log.warning(
            "the data has no images of %d of the model's %d classes (%s): what a score fits per class is fitted "
            "without them",
            len(missing),
            len(names),
            _listed(missing),
        )
    return _positions(data_names, names)


def _positions(data_names: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """int64 (classes of the data,): where each is in `names`."""
    positions = {name: index for index, name in enumerate(names)}
    return np.array([positions[name] for name in data_names], dtype=np.int64)


def _nameless(names: tuple[str, ...]) -> bool:
    """Whether these are "0", "1", ..., what classes are called that came without names."""
    return names == tuple(str(i) for i in range(len(names)))


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
