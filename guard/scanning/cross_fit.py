"""A scan's own images judged by each other: ``cross-fitted-K-SEED.parquet``, with the columns of a shard.

The guard's features stay; a new last layer and a new score are fitted on K - 1 of K folds and asked about the other
one (`train.features.cross_fitting`). With s_1 .. s_n the scores of all images, each from the other folds,

    p_i = #{j: s_j >= s_i} / n

is the cross-conformal p-value (Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence
74, 2015): uniform where no image is unlike the others, so a share t of any data set has p <= t. It ranks images. It
proves nothing of them, and no false discovery rate follows: data in doubt are no reference for themselves.

Needs torch, scikit-learn and a guard that shows features. Those are in memory, 4 D bytes per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._siblings import needs
from ..artefact.load import load
from ..cores import available_cores
from ..data.copies import pixel_digests
from ..data.decoding import decode
from ..data.progress import with_progress
from ..detector import Guard
from ..errors import ConfigError
from ..paths import path_given
from ..preprocess import MAX_PIXELS
from ..requests import ScanRequest
from .labels import OFF_CLASS_LEVEL
from .plan import Shard
from .reading import Reading
from .scoring import Scored
from .shards import is_whole, write_shard

if TYPE_CHECKING:
    from ..graph.module import GuardModule

NAME = "cross-fitted-{}-{}.parquet"  # folds, seed


@dataclass(frozen=True)
class CrossFittedShard:
    """The file of a cross-fitted judgement, its number of folds, and what should be said of it, or ""."""

    shard: Shard
    folds: int
    note: str


def check_cross_fit(request: ScanRequest) -> None:
    """Before the work.

    Raises:
        ConfigError: no labels are read, or the guard is a file that gives no features.
        MissingExtraError: torch or scikit-learn is not installed.
    """
    if request.cross_fit is None:
        return
    if not request.labelled:
        raise ConfigError("cross_fit judges the data's labels, which labelled=False does not read; add labelled=True")
    given = request.g
    exported = (
        getattr(given.runtime, "module", None) is None if isinstance(given, Guard) else path_given(given).is_file()
    )
    if exported:
        name = given.path if isinstance(given, Guard) else given
        raise ConfigError(
            f"cross_fit reads the network's features, and {str(name)!r} gives verdicts alone, as every exported file; "
            "give the run folder that it was exported from"
        )
    needs("train", "train.features.cross_fitting")


def cross_fitted(folder: Path, request: ScanRequest, source: Reading) -> CrossFittedShard:
    """The file of the judgement, made where it is absent.

    Raises:
        ConfigError: the network has no features to name.
        DataError: too few images of a class.
    """
    assert request.cross_fit is not None  # the caller's
    shard = Shard(NAME.format(request.cross_fit, request.seed), 0, len(source))
    g = request.g if isinstance(request.g, Guard) else load(request.g, device=request.device)
    fitting = needs("train", "train.features.cross_fitting")
    score = fitting.fresh_score(g.manifest.score, g.manifest.score_options)
    if not is_whole(folder, shard):
        write_shard(folder, shard, [_judged(g, request, source, fitting, score)], source, g.class_names)
    note = ""
    if score.name != g.manifest.score:
        own = g.manifest.score_label
        note = f"score {own!r} is not made from features alone; {score.name!r} was cross-fitted instead."
    return CrossFittedShard(shard, request.cross_fit, note)


def _judged(g: Guard, request: ScanRequest, source: Reading, fitting: Any, score: Any) -> Scored:
    """The images by the other folds, as one group."""
    assert source.labels is not None  # `check_cross_fit`
    features, digests, failures = _features(g, request, source)
    labels = np.delete(source.labels, [at for at, _ in failures])
    found = fitting.cross_fit(
        features, labels, digests, score, class_names=g.class_names, folds=request.cross_fit, seed=request.seed
    )
    label, rows = found.probabilities.argmax(1), np.arange(len(labels))
    p_value = cross_conformal(found.ood_score)
    return Scored(
        count=len(source),
        failures=failures,
        label=label,
        probability=found.probabilities[rows, label],
        ood_score=found.ood_score,
        is_ood=p_value <= OFF_CLASS_LEVEL,
        p_value=p_value,
        given_probability=found.probabilities[rows, labels],
    )


def cross_conformal(scores: np.ndarray) -> np.ndarray:
    """(n,) float64 in [1 / n, 1]: the share of the scores (n,) that are at least as large."""
    return 1 - np.searchsorted(np.sort(scores), scores, side="left") / max(len(scores), 1)


def _features(
    g: Guard, request: ScanRequest, source: Reading
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, str], ...]]:
    """features (n, D) float32, digests (n,) uint64, and what could not be read."""
    import torch

    module = _network(g)
    groups = list(Shard("", 0, len(source)).groups(request.batch_size))
    workers = request.workers if request.workers is not None else available_cores() if len(source) >= 1024 else 0
    found, digests, failures = [np.zeros((0, 1), np.float32)], [np.zeros(0, np.uint64)], list[tuple[int, str]]()
    decoded_groups = decode(source, groups, g.manifest.preprocess, workers=workers, max_pixels=MAX_PIXELS)
    stream = with_progress(decoded_groups, len(source), f"features of {source.name}")
    for rows, decoded in zip(groups, stream, strict=True):
        failures += [(int(rows[0]) + at, why) for at, why in decoded.failures]
        if not len(decoded.images):
            continue
        digests.append(pixel_digests(decoded.images))
        with torch.inference_mode():
            x = module.normalise(torch.from_numpy(decoded.images).to(module.scale.device))
            found.append(module.classifier(x).features.float().cpu().numpy())
    return np.concatenate(found[1:] or found), np.concatenate(digests), tuple(failures)


def _network(g: Guard) -> GuardModule:
    """Raises: ConfigError: it shows no features."""
    classifier = g.module.classifier
    if "features" not in classifier.shows():
        raise ConfigError(f"cross_fit reads features, and {classifier.why_not('features')}")
    return g.module.eval()
