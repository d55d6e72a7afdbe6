"""The rejection network of a classifier that the user already has: what `guard.fit` learns from ``outliers=``.

The classifier, of whatever kind, is frozen in eval mode; its features are computed once where the outliers come from a
store or from images. Source: DMR, Choi & Na, CVPR 2024 workshop, whose network goes on any off-the-shelf classifier.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.data import ImageData
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.record import option, parse_options
from guard.requests import FitRequest
from guard.scores import Score
from guard.scores.rejection import Rejection

from ..classifiers.input import example_batch
from ..engine.journal import log_epoch
from ..engine.loader import Feed
from ..engine.stage_run import StageRun
from ..methods.base import MethodContext
from ..methods.rejection import OnlineTuningOptions, RejectionNetwork, RejectionOptions
from ..outliers.base import OutlierMix, PrepareContext
from ..outliers.sources import mix_fingerprint, outlier_mix
from .request import TrainConfig, default_batch_size

NAME = "rejection"


class HeadTraining(OnlineTuningOptions):
    """``training=`` of `guard.fit`: as of the method "rejection"."""

    batch_size: int | None = option(
        None, "In-distribution images per step; default 128, or 32 below 5,000 training images.", ge=2
    )


def asked_training(request: FitRequest, score: Score) -> HeadTraining | None:
    """How the network is to be trained; None where nothing is to be learned from outliers.

    Raises:
        ConfigError: the score does not learn from outliers, or there are none to learn from.
    """
    if request.outliers is None:
        if request.training:
            raise ConfigError("training= says how score 'rejection' learns from outliers: give outliers=, or drop it")
        return None
    if not score.learns_from_outliers:
        raise ConfigError(
            f"score {request.score!r} does not learn from outliers: drop outliers=, or give score='rejection', or "
            f"'rejection+energy' for both"
        )
    return parse_options(HeadTraining, dict(request.training), "training=")


def learned(
    module: GuardModule, data: ImageData, training: HeadTraining, request: FitRequest, out: Path | None
) -> dict[str, Any]:
    """Train the rejection network in the module's score, which it is put into; what the manifest says of it.

    Args:
        data: the in-distribution images, of which none are held out.
        out: the run folder, for stores that synthesisers fill; None: they are kept while this runs.
    """
    outliers = outlier_mix(request.outliers, data.preprocess, request.workers, data)
    device = module.scale.device
    for part in module.score.parts():
        if isinstance(part, Rejection):
            stage = _method(part, training).head_stage(_context(module, data, training, outliers, request.seed))
            with _folder(out) as folder:
                run = StageRun(module, stage, 0, Feed(data), _config(data, training, request, stage.lr), device)
                run.prepare(PrepareContext(module, data, folder, request.seed, device))
                for epoch in range(stage.epochs):
                    log_epoch(stage.name, epoch, stage.epochs, run.epoch(epoch))
            for regulariser in stage.regularisers:
                regulariser.hand_over(part)
    return {**training.model_dump(mode="json"), "outliers": mix_fingerprint(outliers)}


def _method(score: Rejection, training: HeadTraining) -> RejectionNetwork:
    """The method of that name, for the form of this score."""
    own = {name: getattr(training, name) for name in training.model_fields_set & set(RejectionOptions.model_fields)}
    return RejectionNetwork(RejectionOptions(**own, hidden=score.options.hidden, tap=score.options.tap))


def _batch_size(data: ImageData, training: HeadTraining) -> int:
    return min(training.batch_size or default_batch_size(len(data)), len(data))


def _context(
    module: GuardModule, data: ImageData, training: HeadTraining, outliers: OutlierMix | None, seed: int
) -> MethodContext:
    device = module.scale.device
    assert data.labels is not None  # guard.fit loads labelled images
    with torch.inference_mode():
        shown = module.classifier(module.normalise(example_batch(data.preprocess, device)))
    return MethodContext(
        num_classes=shown.logits.shape[1],
        num_features=shown.features.shape[1],
        map_shape=tuple(shown.feature_map.shape[1:]) if shown.feature_map is not None else None,
        class_counts=tuple(int(c) for c in np.bincount(data.labels, minlength=shown.logits.shape[1])),
        epochs=training.tune_epochs,
        lr=training.tune_lr,
        batch_size=_batch_size(data, training),
        seed=seed,
        device=device,
        outliers=outliers,
        initialised=True,
        score=module.score,
    )


def _config(data: ImageData, training: HeadTraining, request: FitRequest, lr: float) -> TrainConfig:
    """What the engine reads of a run: batches, seed, no augmentation of in-distribution images."""
    return TrainConfig(
        method=NAME,
        backbone="given",
        head="given",
        score=str(request.score),
        epochs=training.tune_epochs,
        batch_size=_batch_size(data, training),
        lr=lr,
        seed=request.seed,
        image_size=max(4, data.preprocess.height),
        augment="none",
        calibration=0,
        test=0,
        data_fingerprint=data.fingerprint,
    )


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out / "outliers"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
