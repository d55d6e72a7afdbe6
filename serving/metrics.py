"""Prometheus metrics, summed over the workers of a service.

    guard_requests_total{endpoint, code}       endpoint is one of ours or "other"; 499 = the client went away
    guard_request_seconds{endpoint}            from the first byte of the request to its answer
    guard_images_total{verdict}                "accepted" or "flagged": their ratio is the running OOD rate
    guard_p_value                              uniform on in-distribution traffic; mass near 0 is drift
    guard_ood_score                            bins from the calibration scores' quantiles
    guard_batch_size                           images scored in one run of the graph
    guard_in_work                              images being decoded, waiting or scored now
    guard_target_false_alarm_rate, guard_info{model}
    guard_threshold                            the pooled one; class offsets are in GET /model

BentoML's own request metrics are switched off: they carry the raw path as a label, so that whoever asks for a
million made-up paths makes a million time series that are kept for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from guard.manifest import Manifest
from guard.verdict import Verdict

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """This worker's counters. Made in a worker only: importing prometheus_client fixes where its files lie."""

    def __init__(self, manifest: Manifest, in_work: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if self._shared:
            _forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "guard_requests", "HTTP requests by endpoint and status", ["endpoint", "code"], registry=own
        )
        self._seconds = Histogram(
            "guard_request_seconds", "Time to answer", ["endpoint"], buckets=_SECONDS, registry=own
        )
        self._images = Counter("guard_images", "Images scored, by verdict", ["verdict"], registry=own)
        self._flagged, self._accepted = self._images.labels("flagged"), self._images.labels("accepted")
        self._p_value = Histogram("guard_p_value", "Conformal p-values", buckets=_P_VALUES, registry=own)
        self._score = Histogram("guard_ood_score", "OOD scores", buckets=_score_buckets(manifest), registry=own)
        self._batch = Histogram("guard_batch_size", "Images per run of the graph", buckets=_BATCHES, registry=own)
        self._in_work = Gauge("guard_in_work", "Images in work now", multiprocess_mode="livesum", registry=own)
        self._count_in_work = in_work
        info = Gauge("guard_info", "The guard that answers", ["model"], multiprocess_mode="max", registry=own)
        info.labels(manifest.identity).set(1)
        if manifest.calibration is not None:
            target = Gauge(
                "guard_target_false_alarm_rate",
                "Share of in-distribution images that may be flagged",
                multiprocess_mode="max",
                registry=own,
            )
            target.set(manifest.calibration.alpha)
            threshold = Gauge("guard_threshold", "Flagged above it", multiprocess_mode="max", registry=own)
            threshold.set(manifest.threshold)

    def request(self, endpoint: str, code: int, seconds: float) -> None:
        self._requests.labels(endpoint, str(code)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        self.update_in_work()

    def verdict(self, verdict: Verdict) -> None:
        (self._flagged if verdict.is_ood else self._accepted).inc()
        self._score.observe(verdict.ood_score)
        if not np.isnan(verdict.p_value):
            self._p_value.observe(verdict.p_value)

    def batch(self, size: int) -> None:
        self._batch.observe(size)
        self.update_in_work()

    def update_in_work(self) -> None:
        self._in_work.set(self._count_in_work())

    def text(self) -> bytes:
        """The exposition of all workers."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        self.update_in_work()
        if not self._shared:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


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
