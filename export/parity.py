"""Does the exported file decide the same? Numbers and decisions of two runtimes on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import numpy as np

from guard.artefact.load import opened
from guard.calibration.decision_rule import CLASS_OFFSETS, INVERSE_TEMPERATURE
from guard.data import load
from guard.data.classes import match_classes
from guard.detector import Guard
from guard.errors import ConfigError, DataError, MissingDataError, ParityError
from guard.evaluation import metrics
from guard.export_requests import VerifyRequest
from guard.exported import Parity
from guard.record import Record
from guard.runtimes import Outputs, Runtime

#: Share of images that may change label or flag between two files, by the lower precision: each has its own threshold.
FLIPS = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.02, "int8": 0.05}


class ParityReport(Record):
    """What `guard.verify` measured.

    Attributes:
        images: how many were compared.
        max_score_difference: largest absolute difference of ood_score.
        max_relative_score_difference: the same relative to max(1, |score|).
        max_probability_difference: largest absolute difference of a class probability.
        flag_flips: images whose is_ood or label changed.
        label_changes: images whose label changed (counted in flag_flips too).
        accuracy, false_alarm_rate: (source, exported), where the data has labels; None otherwise.
        auroc_between: AUROC of the exported scores against the source's, on the same images: 0.5 means neither is
            shifted.
    """

    images: int
    max_score_difference: float
    max_relative_score_difference: float
    max_probability_difference: float
    flag_flips: int
    label_changes: int
    accuracy: tuple[float, float] | None
    false_alarm_rate: tuple[float, float]
    auroc_between: float
    source_runtime: str
    runtime: str

    @property
    def parity(self) -> Parity:
        """The part that travels in the manifest."""
        return Parity(**{name: getattr(self, name) for name in Parity.model_fields})

    def __str__(self) -> str:
        accuracy = ""
        if self.accuracy is not None:
            accuracy = f"\n  accuracy          {self.accuracy[0]:.4f} -> {self.accuracy[1]:.4f}"
        return (
            f"{self.images} images, {self.source_runtime} -> {self.runtime}\n"
            f"  score difference  {self.max_score_difference:.3g} (relative {self.max_relative_score_difference:.3g})\n"
            f"  probability diff. {self.max_probability_difference:.3g}\n"
            f"  flag flips        {self.flag_flips}\n"
            f"  label changes     {self.label_changes}{accuracy}\n"
            f"  flagged           {self.false_alarm_rate[0]:.4f} -> {self.false_alarm_rate[1]:.4f}"
        )


def verify(request: VerifyRequest) -> ParityReport:
    """`guard.verify`."""
    exported = _opened(request.path, request)
    source = opened(request.against, device=request.against_device, runtime=request.against_runtime)
    if source.class_names != exported.class_names:
        raise ConfigError(
            f"the two guards know different classes: {', '.join(source.class_names[:5])} ... and "
            f"{', '.join(exported.class_names[:5])} ...; verify an export against the guard it was made from"
        )
    if source.manifest.preprocess != exported.manifest.preprocess:
        raise ConfigError("the two guards prepare images differently; verify an export against its own source")
    images, labels = _open(request.data, source)
    report = compare(source, exported, (batch for batch, _ in images.batches(request.batch_size)), labels)
    _keeps_accuracy(report, request.max_accuracy_loss)
    return passed(report, _allowed(request, report.images, source, exported))


def _opened(what: Any, request: VerifyRequest) -> Guard:
    """A guard, or that of a running service."""
    if isinstance(what, str) and what.startswith(("http://", "https://")):
        from guard.client.blocking import Client
        from guard.client.served import served

        address, model = _address(what)
        return served(Client(address, request.token), model)
    return opened(what, device=request.device, runtime=request.runtime)


def _address(url: str) -> tuple[str, str | None]:
    """The service, and the model that ``?model=`` names there.

    Raises:
        ConfigError: the address asks for something else.
    """
    address, _, query = url.partition("?")
    if not query:
        return address, None
    name, _, model = query.partition("=")
    if name != "model" or not model or "&" in model:
        raise ConfigError(f"a service is given as http://HOST:PORT or http://HOST:PORT?model=NAME, got {url!r}")
    return address, unquote(model)


def _allowed(request: VerifyRequest, images: int, *guards: Guard) -> int:
    """How many images may change: what was asked for, or the share of the lower precision, which is one image at least
    where it is any."""
    if request.max_flag_flips is not None:
        return request.max_flag_flips
    share = max(FLIPS[g.manifest.precision] for g in guards)
    return max(1, math.floor(share * images)) if share else 0


def may_be_lost(most: float, images: int) -> float:
    """Of the accuracy on so many images: `most`, or one image where that is more; nothing where `most` is 0."""
    return max(most, 1 / images) if most and images else most


def _keeps_accuracy(report: ParityReport, most: float) -> None:
    """Raises: ParityError: the exported guard is right less often, by more than `may_be_lost`."""
    most = may_be_lost(most, report.images)
    if report.accuracy is not None and report.accuracy[0] - report.accuracy[1] > most + 1e-9:
        raise ParityError(
            f"accuracy falls from {report.accuracy[0]:.4f} in {report.source_runtime} to {report.accuracy[1]:.4f} in "
            f"{report.runtime} (allowed: {most:g} less); raise max_accuracy_loss only if you can live with that"
        )


def compare(source: Guard, exported: Guard, batches: Iterable[np.ndarray], labels: np.ndarray | None) -> ParityReport:
    """Run both guards over batches of uint8 (n, H, W, channels), each at its own threshold."""
    pairs = []
    for batch in batches:
        pairs.append((source.predict_batches([batch]), exported.predict_batches([batch])))
    if not pairs:
        raise ConfigError("give at least one image to verify on")

    def both(field: str) -> tuple[np.ndarray, np.ndarray]:
        a, b = (np.concatenate([getattr(pair[side], field) for pair in pairs]) for side in (0, 1))
        return a, b

    score_a, score_b = both("ood_score")
    if not (np.isfinite(score_a).all() and np.isfinite(score_b).all()):
        raise ParityError("a runtime gave scores that are not finite; the guard cannot be verified")
    label_a, label_b = both("label")
    flag_a, flag_b = both("is_ood")
    probability_a, probability_b = both("probabilities")
    difference = np.abs(score_a.astype(np.float64) - score_b)
    return ParityReport(
        images=len(score_a),
        max_score_difference=float(difference.max()),
        max_relative_score_difference=float((difference / np.maximum(1, np.abs(score_a))).max()),
        max_probability_difference=float(np.abs(probability_a.astype(np.float64) - probability_b).max()),
        flag_flips=int(((flag_a != flag_b) | (label_a != label_b)).sum()),
        label_changes=int((label_a != label_b).sum()),
        accuracy=None if labels is None else (float((label_a == labels).mean()), float((label_b == labels).mean())),
        false_alarm_rate=(float(flag_a.mean()), float(flag_b.mean())),
        auroc_between=float(metrics.auroc(score_a, score_b)),
        source_runtime=f"{source.runtime.name} ({source.runtime.device})",
        runtime=f"{exported.runtime.name} ({exported.runtime.device})",
    )


def on_its_own(exported: Guard) -> Guard:
    """The exported guard as any other consumer of the file runs it: only images are fed, the host does nothing."""
    return Guard(exported.manifest, _OwnDefaults(exported.runtime))


class _OwnDefaults:
    """A runtime that leaves every optional input at the default in the graph."""

    optional_inputs = frozenset({CLASS_OFFSETS, INVERSE_TEMPERATURE})

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name, self.device = runtime.name, runtime.device

    def run(self, images: np.ndarray, threshold: float | None = None, **_: np.ndarray) -> Outputs:
        return self._runtime.run(images)


def passed(report: ParityReport, max_flag_flips: int) -> ParityReport:
    """The report, or `ParityError` where it is beyond the budget."""
    if report.flag_flips > max_flag_flips:
        raise ParityError(
            f"{report.flag_flips} of {report.images} images change their label or flag between {report.source_runtime} "
            f"and {report.runtime} (allowed: {max_flag_flips}; largest score difference "
            f"{report.max_score_difference:.3g}); raise max_flag_flips only if you can live with that"
        )
    return report


def _open(data: Any, source: Guard) -> tuple[Any, np.ndarray | None]:
    """The images (`guard.data.ImageData`), and their labels in the source's order where they have such."""
    try:
        images = load(data, preprocess=source.manifest.preprocess, all_classes=False)
        if images.labels is None:
            return images, None
        labels, _ = match_classes(
            images.labels,
            images.class_names,
            source.class_names,
            images.name,
            source.manifest.data_class_names,
        )
    except MissingDataError:
        raise
    except DataError:  # without labels, or with other classes: the images are enough
        return load(data, preprocess=source.manifest.preprocess, labelled=False), None
    return images, labels
