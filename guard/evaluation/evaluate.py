"""`evaluate`: what a guard is worth on test images: accuracy, false-alarm rate, OOD detection.

    images --guard--> Verdicts --guard.evaluation.metrics--> IdResult, OodResult ... --> Evaluation --> table, JSON,
    report.html

The ID images are matched to the guard's classes by name; where they are the guard's own training data, only the test
split that was held out is used (`guard.data.test_images`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..artefact.load import opened
from ..artefact.places import report_file
from ..calibration.by_class import expected_flags
from ..data.test_images import id_test_images, ood_images
from ..detector import Guard
from ..errors import UnknownNameError
from ..manifest import Calibration
from ..requests import EvaluateRequest
from ..verdict import Verdicts
from . import metrics
from .report import write_report
from .result import Evaluation, IdResult, Interval, OodResult


def evaluate(request: EvaluateRequest) -> Evaluation:
    """See `guard.evaluate`."""
    for name in request.near:
        if name not in request.ood:
            raise UnknownNameError("near-OOD set", name, request.ood, "what is near is some of the OOD sets.")
    if request.out is not None:
        report_file(request.out)
    g = opened(request.g)
    test = id_test_images(g.manifest, request.id, request.max_images, request.seed)
    most, seed = request.max_images, request.seed
    sets = {name: ood_images(g.manifest, name, images, most, seed) for name, images in request.ood.items()}

    id_result = _id_result(g, test.images, test.labels, request.batch_size)
    results = tuple(_ood_result(g, name, images, id_result.verdicts, request) for name, images in sets.items())
    evaluation = Evaluation(g.manifest, id_result, results, test.notes, request.bootstrap, request.seed)
    if request.out is not None:
        write_report(evaluation, request.out)
    return evaluation


def _id_result(g: Guard, images: Any, labels: np.ndarray, batch_size: int) -> IdResult:
    verdicts = _verdicts(g, images, batch_size, images.name)
    right = verdicts.label == labels
    accepted = ~verdicts.is_ood
    n = len(labels)
    return IdResult(
        name=images.name,
        images=n,
        corrupt=len(images.corrupt),
        accuracy=metrics.accuracy(verdicts.label, labels),
        accuracy_interval=metrics.wilson_interval(int(right.sum()), n),
        accuracy_accepted=float(right[accepted].mean()) if accepted.any() else math.nan,
        false_alarm_rate=float(verdicts.is_ood.mean()),
        expected=_expected(verdicts.label, g.manifest.calibration),
        labels=labels,
        verdicts=verdicts,
        source=images,
    )


def _expected(predicted: np.ndarray, calibration: Calibration | None) -> Interval | None:
    counts = None if calibration is None else expected_flags(predicted, calibration)
    return None if counts is None else (counts[0] / len(predicted), counts[1] / len(predicted))


def _ood_result(g: Guard, name: str, images: Any, id_verdicts: Verdicts, request: EvaluateRequest) -> OodResult:
    verdicts = _verdicts(g, images, request.batch_size, name)
    id_scores, scores, resamples = id_verdicts.ood_score, verdicts.ood_score, request.bootstrap
    return OodResult(
        name=name,
        near=name in request.near,
        images=len(scores),
        corrupt=len(images.corrupt),
        metrics=metrics.detection_metrics(id_scores, scores),
        intervals=metrics.bootstrap(id_scores, scores, resamples=resamples, seed=request.seed) if resamples else {},
        flagged=float(verdicts.is_ood.mean()),
        flagged_interval=metrics.wilson_interval(int(verdicts.is_ood.sum()), len(scores)),
        verdicts=verdicts,
        source=images,
    )


def _verdicts(g: Guard, images: Any, batch_size: int, name: str) -> Verdicts:
    return g.predict_batches(_with_progress((batch for batch, _ in images.batches(batch_size)), len(images), name))


def _with_progress(batches: Iterable[np.ndarray], total: int, name: str) -> Iterator[np.ndarray]:
    """A bar on a terminal's stderr; nothing in a log file."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(name), total=total)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
