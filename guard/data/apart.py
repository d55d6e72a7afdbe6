"""Calibration and test images that were given apart from the data: told apart, and known again by their pixels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np

from ..manifest import DataCard, Manifest
from .image_data import ImageData

log = logging.getLogger("ood_guard")


def warn_if_among(whole: ImageData, part: ImageData, name: str) -> None:
    """Say how many images of a part given apart are among others too."""
    if part.digests is None or whole.digests is None:
        return
    count = int(np.isin(part.digests, whole.digests).sum())
    if count:
        log.warning(
            "%d of the %d %s images are among those of %s too, to the pixel: what is chosen or measured on them "
            "flatters; take them out",
            count,
            len(part),
            name,
            whole.name,
        )


def cards_apart(given: Sequence[tuple[str, ImageData]]) -> tuple[DataCard, ...]:
    """A card of each set of (part, its images); one for both where both are the same."""
    cards: dict[str, DataCard] = {}
    for part, images in given:
        pixels = _pixels(images)
        card = cards.get(pixels) or images.card({}).model_copy(update={"pixels": pixels})
        cards[pixels] = card.model_copy(update={"given_as": (*card.given_as, part)})
    return tuple(cards.values())


def card_apart(manifest: Manifest, images: ImageData) -> DataCard | None:
    """The card of images that the guard was given as calibration or test images, with labels or without."""
    given = [card for card in manifest.data if card.given_as]
    pixels = _pixels(images) if given else ""
    return next((card for card in given if images.fingerprint == card.fingerprint or pixels == card.pixels), None)


def _pixels(images: ImageData) -> str:
    """16 hex digits of what is seen, in any order and without copies; the fingerprint where nobody looked."""
    if images.digests is None:
        return images.fingerprint
    return hashlib.sha256(np.unique(images.digests).tobytes()).hexdigest()[:16]
