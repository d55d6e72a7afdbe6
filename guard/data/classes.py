"""Which class of a model each class of the data is: by name where there are names, else in the order given.

class_order      for `guard.fit`: the model's logits may have no names yet
match_classes    for images of a guard's own classes, which have names

Names are equal, or equal without case, spaces, underscores, hyphens and full stops, where that leaves no choice.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError, DataError, ModelError
from .class_names import listed
from .image_data import ImageData

log = logging.getLogger("ood_guard")


@dataclass(frozen=True)
class ClassOrder:
    """Which logit each class of the data is.

    Attributes:
        names: one per logit, of the guard.
        positions: int64 (classes of the data,), the logit of each.
        data_names: the data's own names, in the order of its labels.
        by_name: False where nothing but the order says which logit a class is.
        named: the names are the model's or the user's; otherwise the data's, which follow the positions.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    data_names: tuple[str, ...] = ()
    by_name: bool = False
    named: bool = True

    def reordered(self, images: ImageData) -> ImageData:
        """The same images with labels in the order of the logits; unlabelled ones as they are."""
        if images.labels is None:
            return images
        return replace(images, labels=self.positions[images.labels], class_names=self.names)

    def moved(self, positions: np.ndarray) -> ClassOrder:
        """Another order of the same classes."""
        names = self.names
        if not self.named:
            of = dict(zip(positions.tolist(), self.data_names, strict=True))
            names = tuple(of.get(at, name) for at, name in enumerate(names))
        return replace(self, names=names, positions=positions)

    @property
    def renamed(self) -> tuple[str, ...]:
        """(C,) what the data calls each logit's class ("" where it lacks the class); empty where it says the same."""
        of = dict(zip(self.positions.tolist(), self.data_names, strict=True))
        theirs = tuple(of.get(at, "") for at in range(len(self.names)))
        same = all(plain(a) == plain(b) for a, b in zip(theirs, self.names, strict=True) if a)
        return () if same else theirs


def class_order(
    answers: int,
    data_names: Sequence[str],
    model_names: Sequence[str] = (),
    given: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
) -> ClassOrder:
    """Match the data's classes to the model's logits.

    By name, where every class of the data is one of `given` or of the model's own; classes without images are allowed
    then, and logged. Classes named by integers from 0 (or from 1 to C) are indices where names are known. Otherwise
    there must be as many classes as logits, in the order of the logits.

    Args:
        answers: how many logits the model gives.
        data_names: the data's classes in the order of its labels; "0", "1", ... where they have no names.
        model_names: what the model brings, one per logit; empty where it brings none.
        given: `class_names` of `guard.fit`, which overrule both.
        labels: (N,) of the data, by which some of its classes may have no images.

    Raises:
        ConfigError: `given` has another number of names than the model has logits.
        DataError: classes that the model does not know, or whose name two of its logits have.
        ModelError: another number of classes than logits, and no names to match them by; or of the model's own names.
    """
    data_names = tuple(data_names)
    names = _names_of_logits(answers, tuple(model_names), None if given is None else tuple(given))
    in_order = np.arange(len(data_names))
    if data_names == names:
        _say_missing(in_order, names, labels)
        return ClassOrder(names, in_order, data_names, by_name=True)
    if names and (found := matched(data_names, names)) is not None:
        _say_missing(found, names, labels)
        return ClassOrder(names, found, data_names, by_name=True)
    known = () if placeholders(names) and given is None else names
    if known and (indices := _as_indices(data_names, answers)) is not None:
        _say_missing(indices, known, labels)
        return ClassOrder(known, indices, data_names)
    if len(data_names) != answers:
        raise _other_number(answers, data_names, known)
    if given is not None:
        return ClassOrder(names, in_order, data_names)
    if known:
        _check_all_renamed(data_names, known)
    return ClassOrder(data_names, in_order, data_names, named=False)


def matched(data_names: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray | None:
    """int64 (classes of the data,): where each is in `names`; None where one of them is not there.

    Raises:
        DataError: a name that fits two of `names`, or two that fit the same.
    """
    exact: dict[str, list[int]] = {}
    loose: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        exact.setdefault(name, []).append(at)
        loose.setdefault(plain(name), []).append(at)
    found = [exact.get(name) or loose.get(plain(name)) for name in data_names]
    if not all(found):
        return None
    fitting: dict[int, str] = {}  # position -> the class of the data that has it
    for name, places in zip(data_names, found, strict=True):
        assert places is not None  # all of them are there
        if len(places) > 1 and len({names[at] for at in places}) == 1:
            raise DataError(
                f"two of the model's classes are named {names[places[0]][:80]!r}, so the data's cannot be matched to "
                "them; tell them apart with class_names="
            )
        if len(places) > 1:
            both = " and ".join(repr(names[at][:60]) for at in places[:2])
            raise DataError(f"class {name[:60]!r} of the data fits {both}; give it the exact name of one of them")
        if (other := fitting.get(places[0])) is not None:
            raise DataError(
                f"the classes {other[:60]!r} and {name[:60]!r} of the data both fit {names[places[0]][:60]!r}; "
                "rename one"
            )
        fitting[places[0]] = name
    return np.array(list(fitting), dtype=np.int64)


def plain(name: str) -> str:
    """A name without case, spaces, underscores, hyphens and full stops; itself where nothing is left."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_.\-\u2010-\u2015]+", "", folded) or name


def _names_of_logits(answers: int, model_names: tuple[str, ...], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """One name per logit; empty where there are none."""
    if given is not None and len(given) != answers:
        raise ConfigError(
            f"class_names has {len(given)} names ({listed(given, 3)}), but the model answers {answers} classes; "
            "give one name per logit, in their order"
        )
    if given is None and model_names and len(model_names) != answers:
        raise ModelError(
            f"the model brings {len(model_names)} class names ({listed(model_names, 3)}), but answers {answers} "
            "classes; name the classes of its logits with class_names="
        )
    return model_names if given is None else given


def placeholders(names: tuple[str, ...]) -> bool:
    """Whether these only count: LABEL_0, LABEL_1 ... as transformers calls what nobody named, or "0", "1", ..."""
    return all(re.fullmatch(rf"(?:LABEL_)?{at}", name) for at, name in enumerate(names))


def _as_indices(data_names: tuple[str, ...], answers: int) -> np.ndarray | None:
    """int64 (classes of the data,): classes named by integers, as indices; None where they are none.

    From 0; from 1 where these are all of 1 .. C.
    """
    if not all(re.fullmatch(r"\d{1,9}", name, re.ASCII) for name in data_names):
        return None
    numbers = [int(name) for name in data_names]
    first = 1 if sorted(numbers) == list(range(1, answers + 1)) else 0
    if len(set(numbers)) < len(numbers) or max(numbers) - first >= answers:
        return None
    return np.array(numbers, dtype=np.int64) - first


def _other_number(answers: int, data_names: tuple[str, ...], names: tuple[str, ...]) -> DataError | ModelError:
    """Why data cannot be matched that has another number of classes than the model."""
    if names and not nameless(data_names):
        known = {plain(name) for name in names}
        unknown = [name for name in data_names if plain(name) not in known]
        return DataError(
            f"the data has classes that the model does not know: {listed(unknown, 3)}; the model's are "
            f"{listed(names, 3)}. Rename or remove them, or name all of the model's classes with class_names="
        )
    return ModelError(
        f"the model answers {answers} classes, the data has {len(data_names)} ({listed(data_names, 5)} ...); "
        "give data with the model's classes, or name the model's with class_names="
    )


def _check_all_renamed(data_names: tuple[str, ...], names: tuple[str, ...]) -> None:
    """As many classes as logits, and other names: taken in their order, unless some are the model's."""
    known = {plain(name) for name in names}
    unknown = [name for name in data_names if plain(name) not in known]
    if len(unknown) < len(data_names):
        raise DataError(
            f"some classes of the data have the model's names and {listed(unknown, 3)} have not; the model's are "
            f"{listed(names, 3)}. Rename the data's, or name the model's with class_names="
        )
    log.warning(
        "the data's classes (%s) are taken for the model's (%s) in this order", listed(data_names), listed(names)
    )


def match_classes(
    labels: np.ndarray,
    names: tuple[str, ...],
    guard_names: tuple[str, ...],
    data_name: str,
    also: tuple[str, ...] = (),
) -> tuple[np.ndarray, str]:
    """Labels (N,) into `names` -> labels (N,) into `guard_names`, matched by name; and a note where that was not
    possible: arrays come with labels only (their classes are named "0", "1", ...), which are then indices.

    Args:
        also: what the guard's own data calls its classes, where that is something else; one per class.

    Raises:
        DataError: names that the guard does not have.
    """
    labels = np.asarray(labels)
    if names == guard_names:
        return labels, ""
    used = np.unique(labels) if nameless(names) else np.arange(len(names))  # "0" is no name where nothing has label 0
    for known in (guard_names, also):
        if (positions := matched(tuple(names[i] for i in used), known)) is not None:
            by_name = nameless(names) and not np.array_equal(positions, used)
            note = f"the labels of {data_name} are taken as the guard's class names, not as indices." if by_name else ""
            at = np.zeros(len(names), np.int64)
            at[used] = positions
            return at[labels], note
    if nameless(names) and len(names) <= len(guard_names):
        return labels, f"{data_name} has no class names; its labels are taken as the guard's class indices."
    known_names = {plain(name) for name in guard_names}
    unknown = [names[i] for i in used if plain(names[i]) not in known_names]
    raise DataError(
        f"{data_name} has classes that the guard does not know: {listed(unknown)}; the guard's are: "
        f"{listed(guard_names)}. Rename the classes, or give these images as an OOD set"
    )


def _say_missing(positions: np.ndarray, names: tuple[str, ...], labels: np.ndarray | None) -> None:
    there = set((positions if labels is None else positions[np.unique(labels)]).tolist())
    missing = [name for at, name in enumerate(names) if at not in there]
    if missing:
        log.warning(
            "the data has no images of %d of the model's %d classes (%s): what a score fits per class is fitted "
            "without them",
            len(missing),
            len(names),
            listed(missing),
        )


def nameless(names: tuple[str, ...]) -> bool:
    """Whether these are "0", "1", ..., what classes are called that came without names."""
    return names == tuple(str(i) for i in range(len(names)))
