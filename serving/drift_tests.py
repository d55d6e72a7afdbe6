"""The drift tests of a worker: does traffic still look like the calibration images?

Every scored image is handed to the drift test of its guard (`guard.monitoring`) before it is answered. All workers
share one file per guard and artefact, so the counts add up, a worker that is killed takes nothing with it, and a guard
that is swapped in begins a test of its own. The bets are made beside the requests, once a second or when somebody
reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from guard.errors import GuardError
from guard.monitoring import DriftMonitor, DriftReport
from guard.monitoring.shared import SharedMonitor
from guard.verdict import Verdict

from .models import Model
from .settings import Settings

if TYPE_CHECKING:
    from prometheus_client import Metric

EVERY_S = 1.0  # between two rounds of bets

logger = logging.getLogger("guard.serving")


class DriftTests:
    """The drift tests of a worker's guards.

    Args:
        settings: GUARD_DRIFT, GUARD_DRIFT_ALPHA and GUARD_DRIFT_FOLDER.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.drift_folder
        self._tests: dict[tuple[str, str], SharedMonitor | None] = {}
        self._clock: asyncio.Task[None] | None = None

    def test(self, model: Model) -> SharedMonitor | None:
        """The test of a guard; None where none runs: it is switched off, the guard is not calibrated, or the file
        cannot be written, which is logged once."""
        key = model.name, model.decision
        if key not in self._tests:
            self._tests[key] = self._opened(model)
        return self._tests[key]

    def count(self, model: Model, verdict: Verdict) -> None:
        """Hand in one scored image: some microseconds."""
        if (test := self.test(model)) is not None:
            test.add_one(verdict.ood_score, verdict.label, verdict.is_ood)

    def start(self) -> None:
        """Bet once a second, until `stop`."""
        self._clock = asyncio.create_task(self._bet_now_and_then())

    async def stop(self) -> None:
        """Bet on what is left."""
        if self._clock is not None:
            self._clock.cancel()
            with suppress(asyncio.CancelledError):
                await self._clock
        await asyncio.to_thread(self._bet)

    def gauges(self, models: list[Model]) -> Iterator[Metric]:
        """What Prometheus is told, of the guards that answer now."""
        from prometheus_client.core import GaugeMetricFamily

        families = {name: GaugeMetricFamily(name, words, labels=["model"]) for name, words in GAUGES.items()}
        for model in models:
            if (test := self.test(model)) is None:
                continue
            for name, value in values(test.report()).items():
                families[name].add_metric([model.name], value)
        yield from families.values()

    def _opened(self, model: Model) -> SharedMonitor | None:
        if not self._settings.drift or model.manifest.calibration is None:
            return None
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ood-guard-drift-"))
        file = re.sub(r"[^\w.@-]", "_", f"{model.name}-{model.decision}") + ".drift"
        try:
            return SharedMonitor(self._folder / file, DriftMonitor.of(model.manifest, alpha=self._settings.drift_alpha))
        except GuardError as error:
            logger.error("no drift test runs for %s: %s", model.identity, error)
            return None

    async def _bet_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await asyncio.to_thread(self._bet)
            except Exception:
                logger.exception("the drift test failed")

    def _bet(self) -> None:
        for test in list(self._tests.values()):
            if test is not None:
                test.take()


def share_drift_state(settings: Settings, folder: Path) -> None:
    """In the supervisor: one folder for all its workers, also those that it starts later: `folder`, which goes with
    the service; or the one of the settings, as an absolute path."""
    if not settings.drift:
        return
    if settings.drift_folder is None:
        folder.mkdir(exist_ok=True)
    os.environ["GUARD_DRIFT_FOLDER"] = str((settings.drift_folder or folder).absolute())


#: Metric -> what it is.
GAUGES = {
    "guard_drift_alarm": "1 once the drift alarm was raised, until the test is reset",
    "guard_drift_log10_evidence": "log10 of the drift test's capital, now",
    "guard_drift_log10_alarm": "The alarm is raised when the evidence reaches it",
    "guard_drift_images": "Images since the test began",
    "guard_drift_flag_rate": "Share of flagged images since the test began",
    "guard_drift_flag_rate_low": "Lower end of its exact 95 % interval",
    "guard_drift_flag_rate_high": "Upper end of its exact 95 % interval",
    "guard_drift_late_flag_rate": "Share of flagged images of late",
}


def values(report: DriftReport) -> dict[str, float]:
    """The gauges of one guard; the rates are left out before the first image."""
    found = {
        "guard_drift_alarm": float(report.alarm),
        "guard_drift_log10_evidence": report.log10_capital,
        "guard_drift_log10_alarm": report.log10_alarm,
        "guard_drift_images": float(report.images),
        "guard_drift_flag_rate_low": report.flag_rate_low,
        "guard_drift_flag_rate_high": report.flag_rate_high,
    }
    for name, rate in (("flag_rate", report.flag_rate), ("late_flag_rate", report.late_flag_rate)):
        if rate is not None:
            found[f"guard_drift_{name}"] = rate
    return found
