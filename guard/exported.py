"""What a manifest says of an exported file alone: agreement with its source, a precision's changes, exemplars."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np

from .record import Record


class Parity(Record):
    """What `verify` measured between the source and this file."""

    images: int
    max_score_difference: float
    max_probability_difference: float
    flag_flips: int
    label_changes: int
    source_runtime: str
    runtime: str


class PrecisionChange(Record):
    """What a file in less than float32 does otherwise. Pairs are (float32, this file) on the same held-out images, each
    with the threshold calibrated on them.

    Attributes:
        target: whose int8 ("cpu", "tensorrt"); the other precisions are the same for both.
        images: in-distribution images.
        accuracy: None where they have no labels.
        auroc: of ood_score, against `ood_images` images of `ood`; "synthetic" are the same images cut into blocks that
            were put into another order, and smooth noise.
        false_alarm_rate: share of them that is flagged.
        flag_flips: images whose is_ood or label changed. label_changes: those whose label changed.
        weight_bits: of the weights that are in int8; 8 where a file does not say it.
        layers: convolutions and matrix products that could be in int8. layers_in_fp32: those that were left in float32.
    """

    target: Literal["cpu", "tensorrt"]
    images: int
    accuracy: tuple[float, float] | None
    auroc: tuple[float, float]
    ood: str
    ood_images: int
    false_alarm_rate: tuple[float, float]
    flag_flips: int
    label_changes: int
    weight_bits: int = 8
    layers: int = 0
    layers_in_fp32: tuple[str, ...] = ()


class Exemplar(Record):
    """A small picture of an ordinary image: its class (predicted, and not flagged) and a JPEG."""

    label: int
    jpeg_base64: str


class Exemplars(Record):
    """Ordinary images to show beside a flagged one; the graph has the output `embedding` to compare with.

    Attributes:
        images: K of them.
        embeddings_base64: (K, D) float16, little-endian, each of length 1.
        space: "features" (N, D), or "probabilities" where the classifier shows no features.
    """

    images: tuple[Exemplar, ...]
    embeddings_base64: str
    space: Literal["features", "probabilities"] = "features"

    @property
    def embeddings(self) -> np.ndarray:
        """(K, D) float32."""
        flat = np.frombuffer(base64.b64decode(self.embeddings_base64), dtype="<f2")
        return flat.reshape(len(self.images), -1).astype(np.float32)


class Engine(Record):
    """A TensorRT engine's own facts: it runs only where these agree.

    Attributes:
        flavour, version: of TensorRT.
        compute_capabilities: that it was built for, like SM90.
        precision: of the network's body.
        max_batch, min_batch: largest and smallest N. opt_batch: the N that it is tuned for.
        gpu: the name of the one that it was built on; "" where there was none.
        onnx_sha256: `weights_sha256` of the file that it was built of; "" in older files.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    precision: str
    max_batch: int
    min_batch: int = 1
    opt_batch: int = 8
    gpu: str = ""
    onnx_sha256: str = ""
