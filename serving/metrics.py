"""Prometheus metrics, summed over the workers of a service, those that died included.

    guard_requests_total{endpoint, code}       endpoint is one of ours or "other"; 499 = the client went away
    guard_request_seconds{endpoint}            from the first byte of the request to its answer
    guard_images_total{model, verdict}         "accepted" or "flagged": their ratio is the running OOD rate
    guard_p_value{model}                       uniform on in-distribution traffic; mass near 0 is drift
    guard_ood_score{model}                     bins from the calibration scores' quantiles
    guard_batch_size                           images scored in one run of the graph
    guard_in_work                              images being decoded, waiting or scored now
    guard_info{model, identity}, guard_target_false_alarm_rate{model}
    guard_threshold{model}                     the pooled one; class offsets are in GET /model

`model` is the name that ``?model=`` chooses, "guard" where there is one only. What is counted lies in files that
outlive their process; what is so (the last two lines) is told by the worker that is asked.

BentoML's own request metrics are switched off: they carry the raw path as a label, so that whoever asks for a
million made-up paths makes a million time series that are kept for ever.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from guard.manifest import Manifest
from guard.verdict import Verdict

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram, Metric

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # environment variable: BentoML's workers have it
Facts = Callable[[], Iterable["Metric"]]


class Metrics:
    """This worker's counters. Made in a worker only: importing prometheus_client fixes whether there are files.

    Args:
        in_work: how many images are.
        folder: where the workers of a service count together, if there are several processes.

    Attributes:
        facts: called when somebody reads the metrics; each gives metrics that hold for the whole service.
    """

    def __init__(self, in_work: Callable[[], int], folder: Path | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._shared = MULTIPROCESS in os.environ
        if self._shared:
            if folder is not None:  # BentoML's is one for all services of a user, and each empties it when it starts
                folder.mkdir(exist_ok=True)
                os.environ[MULTIPROCESS] = str(folder)
            _forget_dead_workers(Path(os.environ[MULTIPROCESS]))
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "guard_requests", "HTTP requests by endpoint and status", ["endpoint", "code"], registry=own
        )
        self._seconds = Histogram(
            "guard_request_seconds", "Time to answer", ["endpoint"], buckets=_SECONDS, registry=own
        )
        self._images = Counter("guard_images", "Images scored, by verdict", ["model", "verdict"], registry=own)
        self._p_value = Histogram("guard_p_value", "Conformal p-values", ["model"], buckets=_P_VALUES, registry=own)
        self._batch = Histogram("guard_batch_size", "Images per run of the graph", buckets=_BATCHES, registry=own)
        self._in_work = Gauge("guard_in_work", "Images in work now", multiprocess_mode="livesum", registry=own)
        self._count_in_work = in_work
        self._answers: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._scores: dict[str, Histogram] = {}
        self._verdicts: dict[str, _VerdictMetrics] = {}
        self._manifests: dict[str, Manifest] = {}
        self.facts: list[Facts] = [self._models_facts]

    def follow(self, name: str, manifest: Manifest) -> None:
        """Count this model's verdicts from now on; those of a model that it replaces stay counted."""
        from prometheus_client import Histogram

        buckets = _score_buckets(manifest)
        score = self._scores[name] = Histogram(
            "guard_ood_score", "OOD scores", ["model"], buckets=buckets, registry=None
        )
        flagged, accepted = self._images.labels(name, "flagged"), self._images.labels(name, "accepted")
        self._verdicts[name] = _VerdictMetrics(flagged, accepted, score.labels(name), self._p_value.labels(name))
        self._manifests[name] = manifest

    def request(self, endpoint: str, code: int, seconds: float) -> None:
        """An answer of status `code` after `seconds`."""
        answers = self._answers.get((endpoint, code))
        if answers is None:  # finding them by their labels takes longer than counting
            answers = self._requests.labels(endpoint, str(code)), self._seconds.labels(endpoint)
            self._answers[endpoint, code] = answers
        answers[0].inc()
        answers[1].observe(seconds)
        self.update_in_work()

    def verdict(self, name: str, verdict: Verdict) -> None:
        """One scored image of the model of that name."""
        self._verdicts[name].count(verdict)

    def batch(self, size: int) -> None:
        """One run of a graph on `size` images."""
        self._batch.observe(size)
        self.update_in_work()

    def update_in_work(self) -> None:
        """Tell the other workers how many images are in work here."""
        self._in_work.set(self._count_in_work())

    def text(self) -> bytes:
        """The exposition of all workers."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        self.update_in_work()
        told = CollectorRegistry()
        told.register(_Told(self.facts))
        if not self._shared:
            told.register(_Scores(list(self._scores.values())))
            return generate_latest(self._registry) + generate_latest(told)
        counted = CollectorRegistry()
        MultiProcessCollector(counted)
        return generate_latest(counted) + generate_latest(told)

    def _models_facts(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        info = GaugeMetricFamily("guard_info", "The guards that answer", labels=["model", "identity"])
        target = GaugeMetricFamily(
            "guard_target_false_alarm_rate", "Share of in-distribution images that may be flagged", labels=["model"]
        )
        threshold = GaugeMetricFamily("guard_threshold", "Flagged above it", labels=["model"])
        for name, manifest in self._manifests.items():
            info.add_metric([name, manifest.identity], 1)
            if manifest.calibration is not None:
                target.add_metric([name], manifest.calibration.alpha)
                threshold.add_metric([name], manifest.threshold)
        yield from (info, target, threshold)


@dataclass(frozen=True, slots=True)
class _VerdictMetrics:
    """One model's counters."""

    flagged: Counter
    accepted: Counter
    score: Histogram
    p_value: Histogram

    def count(self, verdict: Verdict) -> None:
        (self.flagged if verdict.is_ood else self.accepted).inc()
        if not math.isnan(verdict.ood_score):  # the histogram's sum would be NaN ever after
            self.score.observe(verdict.ood_score)
        if not math.isnan(verdict.p_value):
            self.p_value.observe(verdict.p_value)


@dataclass(frozen=True, eq=False)
class _Told:
    """What holds now, as a collector."""

    facts: Sequence[Facts]

    def collect(self) -> Iterator[Metric]:
        for fact in self.facts:
            yield from fact()


@dataclass(frozen=True, eq=False)
class _Scores:
    """The score histograms of all models as one metric: their bins differ, which prometheus_client's own registry does
    not know."""

    models: Sequence[Histogram]

    def collect(self) -> Iterator[Metric]:
        found = [metric for histogram in self.models for metric in histogram.collect()]
        for metric in found[1:]:
            found[0].samples.extend(metric.samples)
        yield from found[:1]


def _score_buckets(manifest: Manifest) -> tuple[float, ...]:
    """Deciles and the tail of the calibration scores, and the threshold: strictly increasing."""
    if manifest.calibration is None:
        return (-100.0, -30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
    scores = manifest.calibration.scores.astype(np.float64)
    cuts = np.quantile(scores, [*np.arange(0.1, 1.0, 0.1), 0.95, 0.99, 1.0])
    return tuple(np.unique(np.append(cuts, manifest.threshold)).tolist())


def _forget_dead_workers(folder: Path) -> None:
    """A worker that was killed leaves its gauge file behind, and its images would stay in work for ever."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in folder.glob("gauge_live*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc").is_dir():
            mark_process_dead(int(pid), str(folder))
