"""Why an image was flagged: its likeliest classes, what each part of the score says, ordinary images that are similar.

The likeliest classes are there for every guard. The rest is in files exported with ``exemplars=``, whose graph
has more outputs: `embedding` (N, D), by whose cosine similar images are found, and, for a combined score, `surprises`
(J, N), -log p of each part, p the share of held-out images as far out by that part alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .detector import Guard
from .verdict import Verdict

EMBEDDING, SURPRISES = "embedding", "surprises"
TOP = 5
NEAREST = 6


@dataclass(frozen=True)
class ClassChance:
    """A class and its probability in [0, 1]."""

    label: int
    class_name: str
    probability: float


@dataclass(frozen=True)
class PartChance:
    """A part of a combined score and the p-value in (0, 1] by that part alone."""

    score: str
    p_value: float


@dataclass(frozen=True)
class Similar:
    """An ordinary image: its class, a small JPEG, and the cosine of its embedding with the image's, in [-1, 1]."""

    class_name: str
    jpeg_base64: str
    cosine: float


@dataclass(frozen=True)
class Explanation:
    """What `explain` says.

    Attributes:
        verdict: as `Guard.predict` gives it.
        top: the likeliest classes, at most 5.
        parts: of a combined score; () where the score has none or the file does not show them.
        nearest: ordinary images, most similar first, at most 6; () where the file holds none.
    """

    verdict: Verdict
    top: tuple[ClassChance, ...]
    parts: tuple[PartChance, ...]
    nearest: tuple[Similar, ...]


def explain(g: Guard, pixels: np.ndarray) -> Explanation:
    """The verdict on one image and what is behind it.

    Args:
        g: any guard; what its file lacks stays empty.
        pixels: uint8 (H, W, channels) of the graph's size, from `guard.preprocess.to_input`.
    """
    verdicts = g.predict_batches([np.ascontiguousarray(pixels[None])])
    return behind(g, verdicts[0], verdicts.probabilities[0], pixels)


def behind(g: Guard, verdict: Verdict, chances: np.ndarray, pixels: np.ndarray) -> Explanation:
    """`explain` where the verdict and the probabilities (C,) are known: the graph runs for its further outputs alone,
    and not at all where it has none."""
    best = np.argsort(-chances, kind="stable")[:TOP].tolist()
    read: Any = getattr(g.runtime, "extra", None)  # of ONNX files alone
    extra: dict[str, np.ndarray] = {} if read is None else read(np.ascontiguousarray(pixels[None]))
    return Explanation(
        verdict=verdict,
        top=tuple(ClassChance(c, g.class_names[c], float(chances[c])) for c in best),
        parts=_parts(g, extra),
        nearest=_nearest(g, extra),
    )


def unit(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    rows: np.ndarray = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    return rows


def _parts(g: Guard, extra: dict[str, np.ndarray]) -> tuple[PartChance, ...]:
    names = g.manifest.score_options.get("parts", ())
    if SURPRISES not in extra or len(names) != len(extra[SURPRISES]):
        return ()
    chances = np.exp(-extra[SURPRISES][:, 0].astype(np.float64)).clip(1e-300, 1)
    return tuple(PartChance(name, float(p)) for name, p in zip(names, chances, strict=True))


def _nearest(g: Guard, extra: dict[str, np.ndarray]) -> tuple[Similar, ...]:
    exemplars = g.manifest.exemplars
    if exemplars is None or EMBEDDING not in extra:
        return ()
    cosines = exemplars.embeddings @ unit(extra[EMBEDDING])[0]
    rows = np.argsort(-cosines, kind="stable")[:NEAREST].tolist()
    return tuple(
        Similar(g.class_names[exemplars.images[row].label], exemplars.images[row].jpeg_base64, float(cosines[row]))
        for row in rows
    )
