"""Everything about a guard except its weights, as one frozen record that travels inside the artefact."""

from __future__ import annotations

import base64
import functools
from importlib import metadata
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from .exported import Engine, Exemplars, Parity, PrecisionChange
from .record import Record

FORMAT_VERSION = 5  # what is written
# 1: no class-conditional calibration or temperature; 2: `Preprocess` had a crop_scale; 3: no exemplars; 4: float32 only
READABLE_VERSIONS = (1, 2, 3, 4, 5)

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Side = Annotated[int, Field(ge=1, le=32768)]  # pixels
Level = Annotated[int, Field(ge=0, le=255)]  # of grey, or of one colour


class Preprocess(Record):
    """How any image becomes the uint8 (height, width, channels) array the graph takes; see `guard.preprocess`.

    Attributes:
        height, width: pixels of the graph's input.
        channels: 3 (RGB; grey images are repeated) or 1 (grey; colour images are converted).
        resize: how the image comes to `resize_to`: "squash" scales each side by its own factor; "crop" both alike,
            until they fill it; "pad" both alike, until they fit into it. Then the centre is cut, or the rest is `fill`.
        interpolation: Pillow's antialiased filter.
        resize_to: (height, width) before the centre is cut; None is the input's own size.
        crop_like: whose centre crop it is, "torchvision" (half a pixel of the corner rounds to even) or "hugging_face"
            (it rounds down).
        background: what lies behind transparent pixels: a grey level or a colour (R, G, B), 0 .. 255; "drop" ignores
            the transparency, as Pillow's convert("RGB") does.
        fill: what surrounds an image that does not fill the input, per channel, 0 .. 255; empty is black.
        format_2: read from an older file, whose pixels stay what they were: an image of the input's size is not
            resampled, and "torchvision" resamples the part that is kept alone, which differs by a level at most.
    """

    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)
    channels: Literal[1, 3] = 3
    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Interpolation = "bilinear"
    resize_to: tuple[Side, Side] | None = None
    crop_like: Literal["torchvision", "hugging_face"] = "torchvision"
    background: Level | tuple[Level, Level, Level] | Literal["drop"] = 255
    fill: tuple[Level, ...] = ()
    format_2: bool = False

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        """What format 2 wrote; and no `resize_to` where it is the input's own size."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        size = values.get("height"), values.get("width")
        if values.get("resize") == "stretch":
            values["resize"] = "squash"
        if "crop_scale" in values:
            scale = float(values.pop("crop_scale"))
            values |= {"resize_to": tuple(round(side * scale) for side in size), "format_2": True}
        if values.get("resize_to") is not None and tuple(values["resize_to"]) == size:
            del values["resize_to"]
        return values

    def geometry(self) -> dict[str, Any]:
        """How images come to the input's size, as JSON, where that is not the default."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"height", "width", "channels"})

    @property
    def keeps_own_size(self) -> bool:
        """Whether an image of the input's size is the input, unchanged."""
        return self.resize_to is None or self.format_2


class Normalisation(Record):
    """Inside the graph: (pixel / 255 - mean) / std, one value per channel.

    Attributes:
        mean, std: in the order of the network's channels.
        channel_order: in which the network takes them: "rgb", or "bgr" (Caffe, OpenCV). The graph's input is RGB.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"


class Calibration(Record):
    """How the threshold was chosen; `scores_base64` holds the n sorted calibration scores (float32, little-endian).

    The fields from `class_offsets` on are filled in by a class-conditional calibration and empty otherwise. What is
    stored is the offset and not the class's threshold, because the offset is what the graph adds: a class's threshold
    IS the float32 sum, so host and graph agree bit for bit.

    Attributes:
        alpha: the target false-alarm rate.
        n: calibration images.
        threshold: flag when ood_score > threshold; class-conditional: when ood_score > threshold + its class's offset.
        rate_low, rate_high: exact 95 % interval of the false-alarm rate that `threshold` alone realises
            (Beta(n + 1 - k, k)).
        class_offsets: (C,) float32 values; 0 for a class that keeps the pooled threshold.
        class_counts: (C,) calibration images predicted as each class.
        class_intervals: (C,) exact 95 % interval of each class's realised false-alarm rate; None for a class that keeps
            the pooled threshold, whose rate nothing is promised about.
        min_class_images: a class with fewer calibration images keeps the pooled threshold.
        labels_base64: the predicted class of each calibration score, in the scores' order (uint16, little-endian).
    """

    alpha: float
    n: int
    threshold: float
    rate_low: float
    rate_high: float
    scores_base64: str
    class_offsets: tuple[float, ...] = ()
    class_counts: tuple[int, ...] = ()
    class_intervals: tuple[tuple[float, float] | None, ...] = ()
    min_class_images: int = 0
    labels_base64: str = ""

    @property
    def scores(self) -> np.ndarray:
        """(n,) float32 calibration scores in ascending order."""
        return _scores(self.scores_base64)

    @property
    def class_conditional(self) -> bool:
        """Whether the threshold depends on the predicted class."""
        return bool(self.class_offsets)

    @property
    def class_thresholds(self) -> np.ndarray:
        """(C,) float32: threshold + class_offsets, added in float32 as the graph does; (0,) where there is only one."""
        return np.float32(self.threshold) + np.array(self.class_offsets, dtype=np.float32)

    @property
    def labels(self) -> np.ndarray:
        """(n,) uint16 predicted class of each of `scores`; (0,) for a calibration that is not class-conditional."""
        return np.frombuffer(base64.b64decode(self.labels_base64), dtype="<u2")

    @property
    def scores_by_class(self) -> tuple[np.ndarray | None, ...]:
        """(C,) ascending float32 scores of each class that has its own threshold; None for the others."""
        return _scores_by_class(self.scores_base64, self.labels_base64, self.class_intervals)


@functools.lru_cache(maxsize=4)  # every prediction asks; no cached_property, which pydantic would compare as a field
def _scores(scores: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(scores), dtype="<f4")


@functools.lru_cache(maxsize=4)
def _scores_by_class(scores: str, labels: str, intervals: tuple[Any, ...]) -> tuple[np.ndarray | None, ...]:
    values = np.frombuffer(base64.b64decode(scores), dtype="<f4")
    classes = np.frombuffer(base64.b64decode(labels), dtype="<u2")
    return tuple(None if interval is None else values[classes == c] for c, interval in enumerate(intervals))


class TemperatureScaling(Record):
    """One number that calibrates the probabilities: softmax(logits / value) (Guo et al., ICML 2017).

    Neither labels nor ood_scores depend on it: a score reads the raw logits (also msp, whose score is therefore not one
    minus the probability that is shown).

    Attributes:
        value: T > 0; above 1 the classifier was overconfident.
        n: labelled images it was fitted on, never training images.
        measured_on: which images the numbers below are from: "test" images the fit did not see, or the "calibration"
            images it was fitted on, which flatters a little.
        measured_images: how many.
        ece_before, ece_after: expected calibration error of the predicted class's probability, 15 equal bins, in [0, 1]
            (`guard.evaluation.metrics.expected_calibration_error`).
        nll_before, nll_after: mean negative log-likelihood of the true class, in nats.
    """

    value: float = Field(gt=0)
    n: int
    measured_on: Literal["calibration", "test"]
    measured_images: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float

    @property
    def inverse(self) -> np.float32:
        """1 / T as the graph multiplies by it."""
        return np.float32(1 / self.value)


class DataCard(Record):
    """Where numbers came from: a name, a fingerprint of the pixels and labels, and how many images each split had.

    Attributes:
        images: how many could be read; `corrupt` others could not.
        splits: images in each part that was drawn.
        seed: of that draw; None in the cards of older guards, where it is the guard's own.
        not_read: files of the folder that cannot be read as images, by ending.
        duplicates: images that are copies of another, to the pixel; they were kept with it. None in the cards of older
            guards, which did not look: their splits are drawn again as they were.
        class_names: (C,) what these images call the guard's classes, "" for one without images; empty where they have
            the guard's own names.
        settled: how many of the calibration split a score learned from (the p-values of a combined one); the threshold
            is from the others (`guard.data.held_out.halves`).
        given_as: "calibration", "test" or both of a set that was given apart for that; nothing was trained on it.
        pixels: of such a set, by which it is known with labels or without (`guard.data.apart`).
    """

    name: str
    fingerprint: str
    images: int
    corrupt: int = 0
    splits: dict[str, int] = {}
    seed: int | None = None
    not_read: dict[str, int] = {}
    duplicates: int | None = None
    class_names: tuple[str, ...] = ()
    settled: int = 0
    given_as: tuple[str, ...] = ()
    pixels: str = ""


class Manifest(Record):
    """Everything about a guard except its weights."""

    format_version: int = FORMAT_VERSION
    name: str = "guard"
    class_names: tuple[str, ...]
    preprocess: Preprocess
    normalisation: Normalisation
    method: str
    method_options: dict[str, Any] = {}
    backbone: str
    backbone_options: dict[str, Any] = {}
    head: str
    head_options: dict[str, Any] = {}
    score: str
    score_options: dict[str, Any] = {}
    score_shapes: dict[str, tuple[int, ...]] = {}
    seed: int = 0
    calibration: Calibration | None = None
    temperature: TemperatureScaling | None = None
    data: tuple[DataCard, ...] = ()
    metrics: dict[str, float] = {}
    versions: dict[str, str] = {}
    created: str = ""
    precision: str = "fp32"
    precision_change: PrecisionChange | None = None
    parity: Parity | None = None
    engine: Engine | None = None
    exemplars: Exemplars | None = None
    weights_sha256: str = ""

    @property
    def threshold(self) -> float:
        """The calibrated threshold (of all classes together); +inf before calibration, which flags NaN alone."""
        return self.calibration.threshold if self.calibration else float("inf")

    @property
    def score_label(self) -> str:
        """What people call the score: of a combination its parts, "energy+vim"."""
        return "+".join(self.score_options.get("parts", ())) or self.score

    @property
    def data_class_names(self) -> tuple[str, ...]:
        """(C,) what the guard's own data calls its classes, where that is something else; empty otherwise."""
        return next((card.class_names for card in self.data if card.class_names), ())

    @property
    def identity(self) -> str:
        """``name@short-hash``: which weights answered."""
        return f"{self.name}@{self.weights_sha256[:12]}" if self.weights_sha256 else self.name


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for name in ("ood-guard", "torch", "timm", "numpy", "onnx", "onnxruntime", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
