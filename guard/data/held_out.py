"""Which images train, which choose the threshold, which measure: disjoint, by seed, and drawn here alone.

    Draw      how many images are held out, and the seed; the same draw of the same labels is the same split
    Splits    the images of a draw

`guard.train` draws. Whatever begins with a guard (`guard.fit`, `synth`, `evaluate`, `calibrate`, `train` with init=)
draws again what it was made with (`Draw.of_guard`), so that nobody calibrates, measures or makes outliers with images
of the wrong part.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..calibration.conformal import reachable_rank
from ..errors import CalibrationError, DataError
from ..manifest import DataCard, Manifest
from ..requests import check_seed
from .apart import cards_apart, warn_if_among
from .classes import ClassOrder, match_classes
from .copies import copies, originals
from .image_data import ImageData
from .loading import load
from .splits import split

log = logging.getLogger("ood_guard")

MIN_SETTLED = 20  # images; a table of p-values from fewer says nothing
Rows = dict[str, np.ndarray]  # "train", "calibration", "test": int64 indices


@dataclass(frozen=True)
class Draw:
    """How images are held out.

    Attributes:
        seed: of the draw, 0 .. 2^31 - 1.
        calibration, test: how many images, which share of them, None for the default; or images of their own, and then
            none are held out for that part.
        spread_thin: one image in all may stay for training (`splits.split`).
        together: copies stay with their original; False for guards that were made before anybody looked for copies.
    """

    seed: int
    calibration: Any = None
    test: Any = None
    together: bool = True
    spread_thin: bool = False

    @classmethod
    def of_guard(cls, manifest: Manifest | None, source: ImageData) -> Draw | None:
        """The draw that a guard's splits came from, where `source` is all of the data it was made from; else None."""
        card = None if manifest is None else own_card(manifest, source)
        if manifest is None or card is None or card.images != len(source) or not any(card.splits.values()):
            return None
        parts = card.splits.get("calibration", 0), card.splits.get("test", 0)
        return cls(
            _seed(card, manifest), *parts, together=card.duplicates is not None, spread_thin=manifest.method == "fit"
        )

    def kept(self, earlier: Draw) -> Draw:
        """`earlier`, with images of their own as here; numbers that ask for something else are ignored, and logged."""
        parts = {}
        for name in ("calibration", "test"):
            asked, drawn = getattr(self, name), getattr(earlier, name)
            parts[name] = drawn if is_amount(asked) else asked
            if asked is not None and is_amount(asked) and asked != drawn:
                log.warning("%s=%s is ignored: the split this network was trained with is kept", name, asked)
        return Draw(earlier.seed, **parts, together=earlier.together, spread_thin=earlier.spread_thin)

    def rows(self, source: ImageData) -> Rows:
        """Indices into `source`, ascending.

        Raises:
            ConfigError: an impossible seed.
            DataError: no labels, or more images than can be held out.
        """
        seed = check_seed(self.seed)
        if source.labels is None:
            raise DataError("training needs labelled images: a folder per class, or a label column")
        counts = {name: part if is_amount(part) else 0 for name, part in self._parts()}
        first = originals(source.digests) if self.together and source.digests is not None else None
        rows = split(source.labels, seed=seed, originals=first, spread_thin=self.spread_thin, **counts)
        if first is not None and any(count != 0 for count in counts.values()):
            _say_copies(source, counts, rows)
        return rows

    def own(self) -> dict[str, Any]:
        """The parts that are images of their own."""
        return {name: part for name, part in self._parts() if not is_amount(part)}

    def _parts(self) -> tuple[tuple[str, Any], tuple[str, Any]]:
        return ("calibration", self.calibration), ("test", self.test)


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of the user's data.

    Attributes:
        source: all of it; `rows` are indices into it (empty for parts given apart).
        drawn: the draw they come from.
        calibration: without copies among them, which would count as more evidence than they are.
        renamed: what `source` calls the classes, where a model calls them otherwise (`ClassOrder.renamed`).
        settled: held-out images that a score learned from; they are no longer in `calibration`.
        apart: cards of the parts given apart.
    """

    source: ImageData
    train: ImageData
    calibration: ImageData
    test: ImageData | None
    rows: Rows
    drawn: Draw
    renamed: tuple[str, ...] = ()
    settled: int = 0
    apart: tuple[DataCard, ...] = ()

    @classmethod
    def draw(cls, source: ImageData, draw: Draw, *, alpha: float, labelled_calibration: bool = False) -> Splits:
        """Hold out calibration and test images, or take those of their own.

        Args:
            alpha: the false-alarm rate that the calibration images must be able to support.
            labelled_calibration: a calibration set of its own must have labels; for a threshold images are enough.

        Raises:
            ConfigError, CalibrationError, DataError: a seed, alpha or number of images that cannot be.
        """
        rows, own = draw.rows(source), draw.own()
        calibration, test = (
            source.subset(rows["calibration"]),
            source.subset(rows["test"]) if len(rows["test"]) else None,
        )
        if "calibration" in own:
            calibration = _given(own["calibration"], source, labelled=labelled_calibration)
        calibration = one_of_each(calibration)
        if "test" in own:
            test = _given(own["test"], source, labelled=True)
        parts = [(name, part) for name, part in (("calibration", calibration), ("test", test)) if part is not None]
        apart = [(name, part) for name, part in parts if name in own]
        for name, part in apart:
            warn_if_among(source, part, name)
        if len(apart) == len(own) == 2:
            warn_if_among(calibration, apart[1][1], "test")
        reachable_rank(len(calibration), alpha)  # before training
        return cls(source, source.subset(rows["train"]), calibration, test, rows, draw, apart=cards_apart(apart))

    def in_order(self, order: ClassOrder | None = None) -> Splits:
        """The same images with labels in the order of a model's logits, None for that of the data's classes.

        Parts given apart are matched to the model's classes, as `guard.evaluate` matches images.

        Raises:
            DataError: they are of classes that the model does not have.
        """
        names = self.source.class_names
        to = order or ClassOrder(names, np.arange(len(names)), names)

        def part(name: str, images: ImageData) -> ImageData:
            if name not in self.drawn.own() or images.labels is None:
                return to.reordered(images)
            labels, note = match_classes(images.labels, images.class_names, to.names, images.name, to.renamed)
            if note:
                log.info("%s", note)
            return replace(images, labels=labels, class_names=to.names)

        return replace(
            self,
            train=to.reordered(self.train),
            calibration=part("calibration", self.calibration),
            test=self.test and part("test", self.test),
            renamed=to.renamed,
        )

    def card(self) -> DataCard:
        """The data and the sizes of its parts, from which they can be drawn again."""
        card = self.source.card({name: len(rows) for name, rows in self.rows.items()})
        together = {} if self.drawn.together else {"duplicates": None}
        settled = 0 if "calibration" in self.drawn.own() else self.settled
        told = {"seed": self.drawn.seed, "class_names": self.renamed, "settled": settled}
        return card.model_copy(update=told | together)

    def cards(self, before: Manifest | None = None) -> tuple[DataCard, ...]:
        """`card`, those of the guard that the network was taken from, which has seen their images too, and those of the
        parts given apart."""
        card = self.card()
        apart = [
            other.model_copy(update={"settled": self.settled if "calibration" in other.given_as else 0})
            for other in self.apart
        ]
        if before is None:
            return card, *apart
        named = () if before.class_names == self.train.class_names else before.class_names
        earlier = [
            other.model_copy(update={"class_names": other.class_names or named, "seed": _seed(other, before)})
            for other in before.data
            if not other.given_as
        ]
        same = card.fingerprint, card.images
        return card, *(other for other in earlier if (other.fingerprint, other.images) != same), *apart


def own_card(manifest: Manifest, source: ImageData) -> DataCard | None:
    """The card of `source` in the manifest of a guard that was made from it, or from something it is a part of."""
    cards = [card for card in manifest.data if card.fingerprint == source.fingerprint and not card.given_as]
    return next((card for card in cards if card.images == len(source)), cards[0] if cards else None)


def _seed(card: DataCard, manifest: Manifest) -> int:
    """Of the draw that the card tells of."""
    return manifest.seed if card.seed is None else card.seed


def one_of_each(images: ImageData) -> ImageData:
    """Without copies: a threshold's guarantee counts independent images."""
    if not copies(images.digests):
        return images
    assert images.digests is not None  # there are copies
    return images.subset(np.unique(originals(images.digests)))


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, ascending, of `count` calibration images: those that a score with `takes_held_out` learns from, and those
    for the threshold, whose guarantee needs images on which no part of the score depends."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def shared_with_score(count: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """`halves`, but none is given away where the other half could not reach `alpha`, or where it is too small."""
    given, kept = halves(count)
    try:
        reachable_rank(len(kept), alpha)
    except CalibrationError:
        given = given[:0]
    return (given, kept) if len(given) >= MIN_SETTLED else (given[:0], np.arange(count))


def _say_copies(source: ImageData, counts: dict[str, Any], rows: Rows) -> None:
    """What copies did to a draw."""
    count = copies(source.digests)
    if not count:
        return
    fewer = [
        f"{len(rows[name])} of {wanted} for {name}"
        for name, wanted in counts.items()
        if isinstance(wanted, int) and len(rows[name]) < wanted
    ]
    log.warning(
        "%d of %d images of %s are copies of another, to the pixel; each copy stays with its original%s",
        count,
        len(source),
        source.name,
        f" ({', '.join(fewer)})" if fewer else "",
    )


def is_amount(value: Any) -> bool:
    """Whether `calibration=` or `test=` says how many images to hold out, rather than giving some."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _given(images: Any, source: ImageData, *, labelled: bool) -> ImageData:
    """A part given apart, as the source's images are read; a class may have none of them."""
    return load(images, preprocess=source.preprocess, labelled=labelled, all_classes=False)
