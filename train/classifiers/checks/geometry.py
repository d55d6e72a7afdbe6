"""Whether the classifier is clearly more often right on its data when images are made into its input otherwise.

A network trained on squashed pictures, on blue first or on another normalisation answers without complaint, and worse.
So the plausible ways are tried on a sample of the labelled images. One is named where it is right on `MARGIN` more of
them, and wins over loses by `SIGMAS` standard deviations among those where the two differ (McNemar's test):
z = (gained - lost) / sqrt(gained + lost). Nothing is changed: what is right is the user's to know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from guard.data import ImageData
from guard.geometry import Geometry
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.manifest import Normalisation, Preprocess

from ..base import GivenClassifier
from ..input import IMAGENET, normalised

log = logging.getLogger("ood_guard")

MARGIN, SIGMAS = 0.02, 3.0
MOST_IMAGES, FEWEST_IMAGES, TIMED_IMAGES = 256, 64, 16
BUDGET_S = 20.0  # for all that is tried; a slow network, or large photos, get a smaller sample
_BATCH = 64
_DECIDING = int(SIGMAS**2)  # images that must be won, none being lost


@dataclass
class Tried:
    """A way to make the input, and on which images of the sample the classifier is right with it."""

    options: dict[str, Any]
    preprocess: Preprocess
    normalisation: Normalisation
    right: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def said(self) -> str:
        """As a user writes it."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.options.items())


class Sample:
    """Labelled images, some of each class, that can be decoded again; `own` is how the guard makes its input."""

    def __init__(self, module: GuardModule, data: ImageData, own: Preprocess, most: int) -> None:
        assert data.labels is not None  # guard.fit loads labelled data only
        self.module, self.data = module, data
        self.rows = balanced(data.labels, most)
        self.labels = data.labels[self.rows]
        self._own, self._pixels = own, data.decoded(self.rows, own)

    def right(self, way: Tried, where: np.ndarray) -> np.ndarray:
        """bool (n,): whether the images at these places of the sample get their own label."""
        return np.asarray(self.answers(way, where) == self.labels[where])

    def answers(self, way: Tried, where: np.ndarray) -> np.ndarray:
        """int64 (n,): what the classifier calls the images at these places of the sample."""
        pixels = self._pixels[where]
        if way.preprocess != self._own:
            pixels = self.data.decoded(self.rows[where], way.preprocess)
        device = self.module.scale.device
        found = []
        with torch.inference_mode():
            for start in range(0, len(pixels), _BATCH):
                images = torch.from_numpy(pixels[start : start + _BATCH]).to(device)
                logits = self.module.classifier(normalised(images, way.normalisation)).logits
                found.append(logits.argmax(-1).cpu().numpy())
        return np.concatenate(found)


def check_geometry(module: GuardModule, data: ImageData, given: GivenClassifier) -> None:
    """Warn where another way to make the input is clearly better; once, naming the best.

    Args:
        module: the classifier as the guard has it.
        data: labelled images, classes in the order of the logits.
        given: the classifier that was given; a guard of ours knows its input.
    """
    if given.trained is not None or data.source is None or data.labels is None or not len(data):
        return
    own = Tried({}, given.preprocess, given.normalisation)
    began = time.perf_counter()
    few = Sample(module, data, own.preprocess, TIMED_IMAGES)
    few.right(own, np.arange(len(few.rows)))
    each_s = (time.perf_counter() - began) / len(few.rows)
    ways = len([*_normalisations(module, own), *_geometries(own)]) + 1
    most = int(min(MOST_IMAGES, max(FEWEST_IMAGES, BUDGET_S / (each_s * ways))))
    sample = Sample(module, data, own.preprocess, most)
    answers = sample.answers(own, np.arange(len(sample.rows)))
    own.right = answers == sample.labels
    best = _better(sample, own, _normalisations(module, own)) or own
    best = _better(sample, best, _geometries(best)) or best
    if best is not own and best.accuracy >= renamed_accuracy(sample.labels, answers):
        log.warning(
            "%s is right on %.1f %% of %d images, this input on %.1f %%: give %s if the classifier was trained so",
            best.said(),
            100 * best.accuracy,
            len(best.right),
            100 * own.accuracy,
            best.said(),
        )


def balanced(labels: np.ndarray, most: int) -> np.ndarray:
    """int64 rows of at most `most` images, as many of each class as there are, spread over each class's."""
    classes = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    share = max(1, most // max(1, len(classes)))
    picked = [rows[np.linspace(0, len(rows) - 1, min(len(rows), share)).astype(np.int64)] for rows in classes]
    rows = np.sort(np.concatenate(picked))
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)])


def renamed_accuracy(labels: np.ndarray, answers: np.ndarray) -> float:
    """The share that would be right if the classes' names stood at other logits, where that explains it better: blue
    first looks like red and blue having changed places. Learned on one half and asked on the other, so that many
    classes with few images each explain nothing."""
    classes = int(max(labels.max(), answers.max())) + 1
    halves, right = np.arange(len(labels)) % 2 == 0, 0
    for half in (halves, ~halves):
        counts = np.zeros((classes, classes))
        np.add.at(counts, (labels[half], answers[half]), 1)
        rows, columns = linear_sum_assignment(-counts)
        right += int((answers[~half] == columns[np.searchsorted(rows, labels[~half])]).sum())
    return right / len(labels)


def clearly_better(right: np.ndarray, than: np.ndarray) -> bool:
    """Whether one way wins over another by `MARGIN` and by `SIGMAS`; both bool (n,) of the same images."""
    gained, lost = int((right & ~than).sum()), int((than & ~right).sum())
    return bool(gained - lost >= max(MARGIN * len(right), SIGMAS * (gained + lost) ** 0.5, 1))


def _better(sample: Sample, own: Tried, ways: Iterator[Tried]) -> Tried | None:
    """The best of those that are clearly better; what `own` is wrong on is tried first, and mostly alone."""
    wrong, fine = np.flatnonzero(~own.right), np.flatnonzero(own.right)
    if len(wrong) < _DECIDING:
        return None
    chance = np.bincount(sample.labels).max() / len(sample.labels)
    best = None
    for way in ways:
        gained = sample.right(way, wrong)
        if gained.sum() < max(_DECIDING, MARGIN * len(own.right)):
            continue
        way.right = own.right.copy()
        way.right[wrong], way.right[fine] = gained, sample.right(way, fine) if len(fine) else False
        useful = clearly_better(way.right, own.right) and way.accuracy > chance + MARGIN
        if useful and (best is None or way.accuracy > best.accuracy):
            best = way
    return best


def _normalisations(module: GuardModule, own: Tried) -> Iterator[Tried]:
    """Those in use, in both orders of colours, other than `own`."""
    values = own.normalisation
    channels = len(values.mean)
    takes_pixels = isinstance(module.classifier, OnnxClassifier) and module.classifier.image_input().dtype == np.uint8
    sets: dict[str, tuple[Any, Any]] = {"": (values.mean, values.std)}
    if not takes_pixels:
        sets |= {
            "imagenet": IMAGENET[channels],
            "half": ((0.5,) * channels, (0.5,) * channels),
            "0..1": ((0.0,) * channels, (1.0,) * channels),
            "0..255": ((0.0,) * channels, (1 / 255,) * channels),
        }
        if channels == 3:
            sets["caffe"] = ((123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3)
    for order in ("rgb", "bgr")[: 2 if channels == 3 else 1]:
        for mean, std in sets.values():
            # "the same numbers" belong to the same colours in either order
            turned = order != (values.channel_order if (mean, std) == sets[""] else "rgb")
            mean, std = (mean[::-1], std[::-1]) if turned else (mean, std)
            other = Normalisation(mean=mean, std=std, channel_order="bgr" if order == "bgr" else "rgb")
            options: dict[str, Any] = {}
            if not np.allclose((other.mean, other.std), (values.mean, values.std), rtol=1e-3):
                options = {"mean": other.mean, "std": other.std}
            if order != values.channel_order:
                options["channel_order"] = order
            if options:
                yield Tried({**own.options, **options}, own.preprocess, other)


def _geometries(own: Tried) -> Iterator[Tried]:
    """The usual ways to come to the input's size, other than `own`."""
    p = own.preprocess
    smooth = {"interpolation": "bicubic" if p.interpolation == "bilinear" else "bilinear"}
    crops: list[dict[str, Any]] = [{"resize": "crop", "crop_pct": share} for share in (1.0, 0.875, 0.95)]
    others: list[dict[str, Any]] = [
        {"resize": "squash", "crop_pct": 1.0},
        *crops,
        {"resize": "pad", "crop_pct": 1.0},
        smooth,
    ]
    others.append({"background": 255 if p.background == "drop" else "drop"})
    for options in others:
        other = Geometry(**options).applied(p)
        if other == p:
            continue
        # what follows by itself need not be given
        said = {name: value for name, value in options.items() if getattr(p, name, None) != value}
        if "crop_pct" in said and Geometry(**{n: v for n, v in said.items() if n != "crop_pct"}).applied(p) == other:
            del said["crop_pct"]
        yield Tried({**own.options, **said}, other, own.normalisation)


def _shown(value: Any) -> str:
    """Numbers with as many digits as say something, one for all channels where they are alike."""
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else repr(value)
    if value == (1 / 255,) * len(value):
        return "1/255"
    numbers = [f"{v:.4g}" for v in value]
    return numbers[0] if len(set(numbers)) == 1 else f"({', '.join(numbers)})"
