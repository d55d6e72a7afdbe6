"""The most confidently wrong answers of a guard, as small embedded images with captions.

Three ways to be wrong: an OOD image accepted, an ID image flagged, an ID image accepted with the wrong class.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..verdict import Verdict, Verdicts
from .result import Evaluation

MOST = 12  # images per gallery
SIDE = 128  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class Exhibit:
    """One image: a PNG data URI, what it truly is, and what the guard said."""

    uri: str
    tiny: bool  # shown with visible pixels rather than smoothed
    truth: str
    verdict: Verdict


@dataclass(frozen=True)
class Gallery:
    title: str
    order: str  # how the images were chosen
    total: int  # how many there are in all
    exhibits: tuple[Exhibit, ...]


def galleries(evaluation: Evaluation, most: int = MOST) -> list[Gallery]:
    """The three galleries; one without wrong answers has no exhibits."""
    result, names = evaluation.id, evaluation.manifest.class_names
    wrong, flagged = result.verdicts.label != result.labels, result.verdicts.is_ood
    truths = [names[label] for label in result.labels]
    by_score = -result.verdicts.ood_score
    return [
        _accepted_ood(evaluation, most),
        _of_id(
            "In-distribution images flagged", "highest ood_score first", flagged, by_score, evaluation, truths, most
        ),
        _of_id(
            "In-distribution images accepted with the wrong class",
            "highest probability first",
            wrong & ~flagged,
            -result.verdicts.probability,
            evaluation,
            truths,
            most,
        ),
    ]


def thumbnail(pixels: np.ndarray, side: int = SIDE) -> str:
    """uint8 (H, W, 1 or 3) -> a PNG data URI of at most `side` pixels; smaller images stay as they are."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _accepted_ood(evaluation: Evaluation, most: int) -> Gallery:
    """The lowest scores over all OOD sets together."""
    candidates: list[tuple[float, int, int]] = []  # (score, set, image)
    total = 0
    for number, result in enumerate(evaluation.ood):
        accepted = np.flatnonzero(~result.verdicts.is_ood)
        total += len(accepted)
        scores = result.verdicts.ood_score[accepted]
        first = np.argsort(scores, kind="stable")[:most]
        candidates += [(float(scores[i]), number, int(accepted[i])) for i in first]
    chosen = sorted(candidates)[:most]
    exhibits = []
    for _, number, index in chosen:
        result = evaluation.ood[number]
        exhibits += _exhibits(result.source, result.verdicts, np.array([index]), [result.name])
    return Gallery("Out-of-distribution images accepted", "lowest ood_score first", total, tuple(exhibits))


def _of_id(
    title: str, order: str, mask: np.ndarray, keys: np.ndarray, evaluation: Evaluation, truths: list[str], most: int
) -> Gallery:
    chosen = np.flatnonzero(mask)
    chosen = chosen[np.argsort(keys[chosen], kind="stable")][:most]
    result = evaluation.id
    exhibits = _exhibits(result.source, result.verdicts, chosen, [truths[i] for i in chosen])
    return Gallery(title, order, int(mask.sum()), tuple(exhibits))


def _exhibits(source: Any, verdicts: Verdicts, indices: np.ndarray, truths: list[str]) -> list[Exhibit]:
    if len(indices) == 0:
        return []
    pixels = source.take(indices)
    tiny = max(pixels.shape[1:3]) < SIDE
    return [
        Exhibit(thumbnail(image), tiny, truth, verdicts[int(index)])
        for image, truth, index in zip(pixels, truths, indices, strict=True)
    ]
