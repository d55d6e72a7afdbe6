"""Which images a guard is evaluated on, and what their labels are in the guard's own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._siblings import sibling
from ..errors import DataError, MissingDataError, MissingExtraError
from ..manifest import DataCard, Manifest


@dataclass(frozen=True)
class IdTestImages:
    """`images`: an `ImageData`; `labels` (N,) int64 in the guard's order; `notes`: how they were chosen."""

    images: Any
    labels: np.ndarray
    notes: tuple[str, ...]


def id_test_images(manifest: Manifest, data: Any, max_images: int | None = None) -> IdTestImages:
    """Labelled images of the guard's classes that it has not seen.

    Where `data` is what the guard was made from (same fingerprint as a data card in the manifest), the held-out test
    split is drawn again from the labels, the guard's seed and the counts on the card.

    Args:
        data: any form that `guard.train` takes.
        max_images: only the first so many of the images that would be used.

    Raises:
        DataError: unlabelled images, or class names that the guard does not have.
    """
    images = _load(data, manifest, labelled=True, max_images=max_images)
    card = _own_card(manifest, images.fingerprint)
    if card is None:
        labels, note = match_classes(images.labels, images.class_names, manifest.class_names, images.name)
        return IdTestImages(images, labels, (note,) if note else ())
    if len(images) < card.images and max_images is not None:
        images = _load(data, manifest, labelled=True, max_images=None)  # the split needs every label
    images, note = _held_out(images, card, manifest.seed)
    if max_images is not None:
        images = images.subset(np.arange(min(max_images, len(images))))
    return IdTestImages(images, _own_labels(images, manifest), (note,))


def calibration_images(manifest: Manifest, data: Any, *, labelled: bool) -> tuple[Any, np.ndarray | None, str]:
    """In-distribution images to calibrate on, their labels in the guard's order where they have such, and a note.

    Where `data` is what the guard was made from, only the images it held out for calibration: the others were trained
    on, and no promise follows from them.

    Args:
        labelled: labels are needed; otherwise images without, or of other classes, will do.

    Raises:
        DataError: images the guard was trained on and no other; labels that are needed and not there.
    """
    try:
        images = _load(data, manifest, labelled=True)
    except MissingDataError:
        raise
    except DataError:
        if labelled:
            raise
        return _load(data, manifest, labelled=False), None, ""
    card = _own_card(manifest, images.fingerprint)
    if card is None:
        try:
            return images, *match_classes(images.labels, images.class_names, manifest.class_names, images.name)
        except DataError:
            if labelled:
                raise
            return images, None, ""
    if len(images) != card.images:
        note = f"{images.name} is a part of the data the guard was made from and is used as it was given."
        return images, _own_labels(images, manifest), note
    held_out = card.splits.get("calibration", 0)
    if held_out == 0:
        raise DataError(
            f"{images.name} is the data the guard was trained on, with no calibration split held out: a threshold from "
            "training images promises too few false alarms; give other images"
        )
    images = images.subset(_rows(images, card, manifest.seed)["calibration"])
    note = f"{images.name} is the data the guard was made from; only the {held_out} images held out of it are used."
    return images, _own_labels(images, manifest), note


def ood_images(manifest: Manifest, name: str, data: Any, max_images: int | None = None) -> Any:
    """`ImageData` of an OOD set; labels are ignored."""
    return _load(data, manifest, labelled=False, max_images=max_images, name=name)


def match_classes(
    labels: np.ndarray, names: tuple[str, ...], guard_names: tuple[str, ...], data_name: str
) -> tuple[np.ndarray, str]:
    """Labels (N,) into `names` -> labels (N,) into `guard_names`, matched by name; and a note where that was not
    possible: arrays come with labels only (their classes are named "0", "1", ...), which are then indices.

    Raises:
        DataError: names that the guard does not have.
    """
    if names == guard_names:
        return np.asarray(labels), ""
    positions = {name: i for i, name in enumerate(guard_names)}
    unknown = [name for name in names if name not in positions]
    if not unknown:
        return np.array([positions[name] for name in names], dtype=np.int64)[labels], ""
    if list(names) == [str(i) for i in range(len(names))] and len(names) <= len(guard_names):
        return np.asarray(labels), f"{data_name} has no class names; its labels are taken as the guard's class indices."
    raise DataError(
        f"{data_name} has classes that the guard does not know: {_listed(unknown)}; the guard's are: "
        f"{_listed(guard_names)}. Rename the classes, or give these images as an OOD set"
    )


def _own_card(manifest: Manifest, fingerprint: str) -> DataCard | None:
    return next((card for card in manifest.data if card.fingerprint == fingerprint), None)


def _own_labels(images: Any, manifest: Manifest) -> np.ndarray:
    """Labels of the guard's own data in the guard's order, as `fit` took them: by name where the guard has all of these
    names, else index i is the guard's class i, renamed."""
    known = set(images.class_names) <= set(manifest.class_names)
    names = images.class_names if known else manifest.class_names
    return match_classes(images.labels, names, manifest.class_names, images.name)[0]


def _held_out(images: Any, card: DataCard, seed: int) -> tuple[Any, str]:
    if len(images) != card.images:
        return images, (
            f"{images.name} is a part of the data the guard was made from and is used as it was given; with training "
            "images among it the numbers flatter."
        )
    test = card.splits.get("test", 0)
    if test == 0:
        return images, (
            f"{images.name} is the data the guard was made from, with no test split held out: "
            "these numbers flatter; use other images."
        )
    rows = _rows(images, card, seed)["test"]
    return images.subset(rows), (
        f"{images.name} is the data the guard was made from; only the {len(rows)} images held out for testing are used."
    )


def _rows(images: Any, card: DataCard, seed: int) -> dict[str, np.ndarray]:
    """The splits that the guard was made with, drawn again."""
    sizes = {name: card.splits.get(name, 0) for name in ("calibration", "test")}
    return sibling("guard.data").split(images.labels, seed=seed, **sizes)


def _load(data: Any, manifest: Manifest, **options: Any) -> Any:
    try:
        return sibling("guard.data").load(data, preprocess=manifest.preprocess, all_classes=False, **options)
    except ModuleNotFoundError as error:
        if isinstance(error, MissingExtraError):
            raise
        raise MissingExtraError(
            f"{error.name} (needed to read {options.get('name') or data!r:.60})", "train"
        ) from error


def _listed(names: tuple[str, ...] | list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
