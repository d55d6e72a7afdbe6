"""Which images a guard is evaluated on, and what their labels are in the guard's own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, MissingDataError
from ..manifest import DataCard, Manifest
from .apart import card_apart
from .classes import match_classes, matched
from .forms.nesting import SplitsError
from .held_out import Draw, halves, one_of_each, own_card
from .image_data import ImageData
from .loading import first_or_drawn, load
from .noise import is_noise, noise_images


@dataclass(frozen=True)
class IdTestImages:
    """`images`: an `ImageData`; `labels` (N,) int64 in the guard's order; `notes`: how they were chosen."""

    images: ImageData
    labels: np.ndarray
    notes: tuple[str, ...]


def id_test_images(manifest: Manifest, data: Any, max_images: int | None = None, seed: int = 0) -> IdTestImages:
    """Labelled images of the guard's classes that it has not seen.

    Where `data` is what the guard was made from (same fingerprint as a data card in the manifest), the held-out test
    split is drawn again from the labels, and the seed and the counts on the card.

    Args:
        data: any form that `guard.train` takes.
        max_images: only so many of the images that would be used, at random: files are in the order of their classes.
        seed: of that draw.

    Raises:
        DataError: unlabelled images, or class names that the guard does not have.
    """
    images = _load(data, manifest, labelled=True, max_images=max_images, draw=seed)
    card = own_card(manifest, images)
    if card is None:
        labels, note = _labels_by_name(images, manifest)
        notes = (note, _said_of_given(images, card_apart(manifest, images)))
        return IdTestImages(images, labels, tuple(note for note in notes if note))
    if len(images) < card.images and max_images is not None:
        images = _load(data, manifest, labelled=True, max_images=None)  # the split needs every label
    images, note = _held_out(images, card, manifest)
    if max_images is not None:
        images = images.subset(first_or_drawn(len(images), max_images, seed))
    return IdTestImages(images, _own_labels(images, card, manifest), (note,))


def calibration_images(manifest: Manifest, data: Any, *, labelled: bool) -> tuple[ImageData, np.ndarray | None, str]:
    """In-distribution images to calibrate on, none twice, their labels in the guard's order where they have such, and a
    note.

    Where `data` is what the guard was made from, only the images it held out for calibration: the others were trained
    on, and no promise follows from them.

    Args:
        labelled: labels are needed; otherwise images without, or of other classes, will do.

    Raises:
        DataError: images the guard was trained on and no other; labels that are needed and not there.
    """
    try:
        images = _load(data, manifest, labelled=True)
    except (MissingDataError, SplitsError):  # several splits hold training images
        raise
    except DataError:
        if labelled:
            raise
        return _without_settled(one_of_each(_load(data, manifest, labelled=False)), manifest), None, ""
    card = own_card(manifest, images)
    if card is None:
        images = _without_settled(one_of_each(images), manifest)
        try:
            return images, *_labels_by_name(images, manifest)
        except DataError as error:
            if labelled:
                raise
            return images, None, f"every image of {images.name} is taken as in-distribution, though {error}"
    if len(images) != card.images:
        images = one_of_each(images)
        note = f"{images.name} is a part of the data the guard was made from and is used as it was given."
        return images, _own_labels(images, card, manifest), note
    held_out = card.splits.get("calibration", 0)
    if held_out == 0:
        raise DataError(
            f"{images.name} is the data the guard was trained on, with no calibration split held out: a threshold from "
            "training images promises too few false alarms; give other images"
        )
    images = one_of_each(_drawn(images, manifest, "calibration"))
    if card.settled:  # of the others the score's own tables are made
        images = images.subset(halves(len(images))[1])
    note = f"{images.name} is the data the guard was made from; only the {len(images)} images held out of it are used."
    return images, _own_labels(images, card, manifest), note


def _without_settled(images: ImageData, manifest: Manifest) -> ImageData:
    """Without those of a calibration set given apart that the score's own tables are made of."""
    card = card_apart(manifest, images)
    return images.subset(halves(len(images))[1]) if card is not None and card.settled else images


def _said_of_given(images: ImageData, card: DataCard | None) -> str:
    if card is None:
        return ""
    if "calibration" in card.given_as:
        return (
            f"{images.name} is what the guard's threshold was set on, so its false alarms are as promised whatever "
            "other images have; use others."
        )
    return f"{images.name} is the test set that the guard was given; nothing was trained or chosen on it."


def ood_images(manifest: Manifest, name: str, data: Any, max_images: int | None = None, seed: int = 0) -> ImageData:
    """`ImageData` of an OOD set, or of noise by its name (`guard.data.noise`); labels are ignored."""
    if is_noise(data):
        return noise_images(data, manifest.preprocess, max_images, seed=seed, name=name)
    return _load(data, manifest, labelled=False, max_images=max_images, draw=seed, name=name)


def _labels_by_name(images: ImageData, manifest: Manifest) -> tuple[np.ndarray, str]:
    assert images.labels is not None  # loaded as labelled
    return match_classes(
        images.labels, images.class_names, manifest.class_names, images.name, manifest.data_class_names
    )


def _own_labels(images: ImageData, card: DataCard, manifest: Manifest) -> np.ndarray:
    """Labels of the guard's own data in the guard's order, as `fit` took them: by the guard's names or the data's own;
    a guard of an earlier version does not have those, and index i is its class i, renamed."""
    assert images.labels is not None  # loaded as labelled
    names = images.class_names
    if not card.class_names and matched(names, manifest.class_names) is None:
        names = manifest.class_names
    return match_classes(images.labels, names, manifest.class_names, images.name, card.class_names)[0]


def _held_out(images: ImageData, card: DataCard, manifest: Manifest) -> tuple[ImageData, str]:
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
    images = _drawn(images, manifest, "test")
    return images, (
        f"{images.name} is the data the guard was made from; only the {test} images held out for testing are used."
    )


def _drawn(images: ImageData, manifest: Manifest, part: str) -> ImageData:
    """A part that the guard's data was divided into, drawn again."""
    draw = Draw.of_guard(manifest, images)
    assert draw is not None  # its card says that images were held out
    return images.subset(draw.rows(images)[part])


def _load(data: Any, manifest: Manifest, *, labelled: bool, **options: Any) -> ImageData:
    """Images as the guard takes them; a class may have none of them."""
    return load(data, preprocess=manifest.preprocess, all_classes=False, labelled=labelled, **options)
