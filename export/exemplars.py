"""Which ordinary images a file shows: for each class a few that are unlike each other."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from guard.detector import Guard
from guard.errors import ExportError
from guard.explanation import EMBEDDING, unit
from guard.exported import Exemplar, Exemplars

SIDE = 96  # pixels of the longer side, at most
_QUALITY = 85
AT_MOST = 20_000  # images that are looked at


def chosen(g: Guard, batches: Iterable[np.ndarray], per_class: int, *, features: bool) -> Exemplars:
    """Choose `per_class` images of each predicted class that `g` does not flag: the most typical first, then
    always the one farthest from those chosen.

    Args:
        g: the exported guard, whose graph has the extra outputs.
        batches: uint8 (n, H, W, C) in-distribution images.
        features: whether the embedding is the features (else the probabilities).

    Raises:
        ExportError: every image is flagged.
    """
    pixels, labels, scores, embeddings = [], [], [], []
    for batch in batches:
        verdicts = g.predict_batches([batch])
        keep = ~verdicts.is_ood
        pixels += list(batch[keep])
        labels.append(verdicts.label[keep])
        scores.append(verdicts.ood_score[keep])
        embeddings.append(unit(g.runtime.extra(batch)[EMBEDDING])[keep])  # type: ignore[attr-defined]
    if not pixels:
        raise ExportError("exemplars= found no ordinary image: the guard flags every one; give others with data=")
    label, score, embedding = np.concatenate(labels), np.concatenate(scores), np.concatenate(embeddings)
    rows = [row for c in np.unique(label) for row in _spread(np.flatnonzero(label == c), score, embedding, per_class)]
    return Exemplars(
        images=tuple(Exemplar(label=int(label[row]), jpeg_base64=_jpeg(pixels[row])) for row in rows),
        embeddings_base64=base64.b64encode(embedding[rows].astype("<f2").tobytes()).decode(),
        space="features" if features else "probabilities",
    )


def _spread(rows: np.ndarray, score: np.ndarray, embedding: np.ndarray, n: int) -> list[int]:
    """Rows of one class: the one with the lowest score, then always the one least similar to those taken."""
    taken = [int(rows[score[rows].argmin()])]
    nearest = embedding[rows] @ embedding[taken[0]]
    while len(taken) < min(n, len(rows)):
        nearest[np.isin(rows, taken)] = np.inf
        taken.append(int(rows[nearest.argmin()]))
        nearest = np.maximum(nearest, embedding[rows] @ embedding[taken[-1]])
    return taken


def _jpeg(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return base64.b64encode(file.getvalue()).decode()
