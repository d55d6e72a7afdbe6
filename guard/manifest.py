"""Everything about a guard except its weights, as one frozen record that travels inside the artefact."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(Record):
    """How any image becomes the uint8 (height, width, channels) array the graph takes; see `guard.preprocess`.

    Attributes:
        height, width: pixels of the graph's input.
        channels: 3 (RGB; grey images are repeated) or 1 (grey; colour images are converted).
        resize: "stretch" both sides, or "crop" the centre of the image scaled to `crop_scale` x the input.
        interpolation: Pillow's antialiased filter.
        crop_scale: shorter side / input side before the centre crop; 1.0 cuts only the longer side.
        background: the grey level put behind transparent pixels, 0 .. 255.
    """

    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "crop"] = "crop"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    crop_scale: float = Field(default=1.0, ge=1.0, le=4.0)
    background: int = Field(default=255, ge=0, le=255)


class Normalisation(Record):
    """Inside the graph: (pixel / 255 - mean) / std, one value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Calibration(Record):
    """How the threshold was chosen; `scores_base64` holds the n sorted calibration scores (float32, little-endian).

    Attributes:
        alpha: the target false-alarm rate.
        n: calibration images.
        threshold: flag when ood_score > threshold.
        rate_low, rate_high: exact 95 % interval of the realised false-alarm rate (Beta(n + 1 - k, k)).
    """

    alpha: float
    n: int
    threshold: float
    rate_low: float
    rate_high: float
    scores_base64: str

    @property
    def scores(self) -> np.ndarray:
        """(n,) float32 calibration scores in ascending order."""
        return np.frombuffer(base64.b64decode(self.scores_base64), dtype="<f4")


class DataCard(Record):
    """Where numbers came from: a name, a fingerprint of the pixels and labels, and how many images each split had."""

    name: str
    fingerprint: str
    images: int
    corrupt: int = 0
    splits: dict[str, int] = {}


class Parity(Record):
    """What `verify` measured between the source and this file (design, section 4.6)."""

    images: int
    max_score_difference: float
    max_probability_difference: float
    flag_flips: int
    label_changes: int
    source_runtime: str
    runtime: str


class Engine(Record):
    """A TensorRT engine's own facts: it runs only where these agree."""

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    precision: str
    max_batch: int


class Manifest(Record):
    """Everything about a guard except its weights (design, section 4.6)."""

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
    data: tuple[DataCard, ...] = ()
    metrics: dict[str, float] = {}
    versions: dict[str, str] = {}
    created: str = ""
    precision: str = "fp32"
    parity: Parity | None = None
    engine: Engine | None = None
    weights_sha256: str = ""

    @property
    def threshold(self) -> float:
        """The calibrated threshold; +inf (nothing is flagged) before calibration."""
        return self.calibration.threshold if self.calibration else float("inf")

    @property
    def identity(self) -> str:
        """``name@short-hash``: which weights answered."""
        return f"{self.name}@{self.weights_sha256[:12]}" if self.weights_sha256 else self.name
