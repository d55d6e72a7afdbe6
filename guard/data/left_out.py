"""Images without some of their classes, and the images of those: near-OOD sets of the user's own kind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, UnknownNameError
from .image_data import ImageData


def leave_out(images: ImageData, names: Sequence[str]) -> tuple[ImageData, ImageData]:
    """Labelled images of the other classes, with labels 0 .. C'-1 in their order, and unlabelled ones of these.

    The first are another data set with a fingerprint of its own: a guard trained on them was not trained on the rest.

    Raises:
        UnknownNameError: a class that there is not.
        ConfigError: fewer than two classes would be left, or a class is named twice.
    """
    for name in names:
        if name not in images.class_names:
            raise UnknownNameError(f"class of {images.name}", name, images.class_names)
    kept = [name for name in images.class_names if name not in names]
    if len(kept) < 2 or len(set(names)) < len(names) or not names:
        raise ConfigError(
            f"leaving out {', '.join(names) or 'nothing'} of {images.name}: name each class once, at least one, and at "
            f"least two of {', '.join(images.class_names)} must stay"
        )
    assert images.labels is not None  # it has class names
    number = np.array([kept.index(name) if name in kept else -1 for name in images.class_names], np.int64)
    labels = number[images.labels]
    inside, outside = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    told = hashlib.sha256("\n".join([images.fingerprint, *kept]).encode()).hexdigest()[: len(images.fingerprint)]
    without = replace(
        images.subset(inside), labels=labels[inside], class_names=tuple(kept), fingerprint=told, source=images.source
    )
    return without, replace(images.subset(outside), labels=None, class_names=())
