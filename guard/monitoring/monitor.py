"""`DriftMonitor`: does the traffic still look like the calibration images?

    scores --rank among calibration scores and stream--> p, exactly uniform --bets--> capital >= 1 / alpha: alarm

The hypothesis is that calibration images and traffic are exchangeable: drawn alike, in no particular order. While it
holds, the chance that the alarm is EVER raised is at most alpha, however long the traffic and however often one looks
(`ranks` makes the p-values exact, `betting` the capital). The alarm says that the scores are distributed otherwise than
the calibration images', or change in time: more strange images, fewer, or another shape. It does not say whose fault
that is, and sees no change that leaves the scores as they were.

The promise averages over calibration sets too; it does not hold for traffic that comes in runs (frames of one video,
one class at a time), which is not exchangeable and will raise it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.conformal import COVERAGE, beta_interval
from ..errors import CalibrationError, ConfigError, DataError
from ..given import number_given
from ..requests import check_seed
from .betting import HALF_LIFE, bet
from .ranks import Reference, p_values, uniforms
from .report import ClassReport, CurvePoint, DriftReport
from .state import State

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..verdict import Verdicts

ALPHA = 0.01
_AT_ONCE = 256  # images; changes no result
_FADING = 0.5 ** (1 / HALF_LIFE)


class DriftMonitor:
    """Watches a stream of verdicts.

    >>> import numpy as np
    >>> ordinary, strange = np.random.default_rng(0).normal(size=(2, 1000))
    >>> monitor = DriftMonitor(ordinary[:500])
    >>> monitor.update(ordinary[500:]).alarm
    False
    >>> report = monitor.update(strange + 1)
    >>> report.alarm, report.alarm_at < 700
    (True, True)

    Args:
        reference: the guard's calibration scores (n,), in any order; or use `of`.
        alpha: chance of a false alarm, ever, in (0, 1).
        class_names: of the predicted classes, for the view by class; () for none.
        target_flag_rate: what the calibration promises, for the report.
        model: the guard's identity, for the report.
        seed: of the random numbers that order equal scores. The same seed and stream give the same numbers.
    """

    def __init__(
        self,
        reference: np.ndarray,
        *,
        alpha: float = ALPHA,
        class_names: Sequence[str] = (),
        target_flag_rate: float | None = None,
        model: str = "",
        seed: int = 0,
    ) -> None:
        alpha = number_given(alpha, "alpha of a drift test")
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha of a drift test must be between 0 and 1 (1 % is 0.01), got {alpha}")
        check_seed(seed)
        reference = np.asarray(reference, dtype=np.float32)
        if reference.ndim != 1 or not len(reference) or np.isnan(reference).any():
            raise CalibrationError(
                f"a drift test needs the scores (n,) of calibration images, all of them numbers, got {reference.shape}"
            )
        self.alpha = alpha
        self.class_names = tuple(class_names)
        self.target_flag_rate = target_flag_rate
        self.model = model
        self.seed = seed
        self.reference = Reference(reference, seed=seed)
        self.state = State.fresh(self.reference.balls, len(self.class_names))

    @classmethod
    def of(
        cls, manifest: Manifest, *, alpha: float = ALPHA, class_names: Sequence[str] | None = None, seed: int = 0
    ) -> DriftMonitor:
        """The monitor of a guard: ``DriftMonitor.of(g.manifest)``.

        Args:
            manifest: of the guard.
            alpha, seed: as above.
            class_names: default the guard's.

        Raises:
            CalibrationError: the guard is not calibrated, so there is nothing to compare with.
        """
        if manifest.calibration is None:
            raise CalibrationError(
                f"guard {manifest.identity} is not calibrated, so drift cannot be told; calibrate it: guard calibrate"
            )
        return cls(
            manifest.calibration.scores,
            alpha=alpha,
            class_names=manifest.class_names if class_names is None else class_names,
            target_flag_rate=manifest.calibration.alpha,
            model=manifest.identity,
            seed=seed,
        )

    def update(
        self,
        scores: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        flagged: np.ndarray | None = None,
        now: float | None = None,
    ) -> DriftReport:
        """Take the next images, in the order in which they came; how they are cut into calls changes nothing.

        Args:
            scores: (N,) ood_scores; NaN is counted as unscored.
            labels: (N,) predicted classes, for the view by class.
            flagged: (N,) bool, for the rates; where they are once left out, the rates are unknown until a reset.
            now: seconds since 1970; default the clock.

        Raises:
            DataError: arrays of other shapes, or labels that no class has; nothing is counted then.
        """
        self.take(scores, labels=labels, flagged=flagged, now=now)
        return self.report()

    def update_verdicts(self, verdicts: Verdicts) -> DriftReport:
        """`update` with what `Guard.predict` gave."""
        return self.update(verdicts.ood_score, labels=verdicts.label, flagged=verdicts.is_ood)

    def take(
        self,
        scores: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        flagged: np.ndarray | None = None,
        now: float | None = None,
    ) -> None:
        """`update` without the report, which costs more than the update."""
        scores = np.asarray(scores, dtype=np.float32)
        flags = np.full(len(scores), math.nan) if flagged is None else np.asarray(flagged, dtype=np.float64)
        labels = None if labels is None else np.asarray(labels)
        self._check(scores, flags, labels)
        scored = ~np.isnan(scores)
        if not scored.all():
            self.state["unscored"] += float((~scored).sum())
            scores, flags = scores[scored], flags[scored]
            labels = None if labels is None else labels[scored]
        now = time.time() if now is None else now
        for at in range(0, len(scores), _AT_ONCE):
            self._bet(scores[at : at + _AT_ONCE], flags[at : at + _AT_ONCE], now)
        if labels is not None and self.class_names:
            np.add.at(self.state.classes[0], labels, 1)
            np.add.at(self.state.classes[1], labels, flags)

    def _check(self, scores: np.ndarray, flags: np.ndarray, labels: np.ndarray | None) -> None:
        shapes = [scores.shape, flags.shape, *([] if labels is None else [labels.shape])]
        if scores.ndim != 1 or len(set(shapes)) > 1:
            named = zip(("scores", "flagged", "labels"), shapes, strict=False)
            raise DataError(f"one score, flag and label (N,) each, got {', '.join(f'{n} {s}' for n, s in named)}")
        if labels is None or not self.class_names or not len(labels):
            return
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(self.class_names):
            wrong = labels[(labels < 0) | (labels >= len(self.class_names)) | (labels != np.floor(labels))][:1]
            raise DataError(
                f"labels must be whole numbers from 0 to {len(self.class_names) - 1}, got {[*wrong] or labels.dtype}"
            )

    def _bet(self, scores: np.ndarray, flags: np.ndarray, now: float) -> None:
        start = int(self.state["images"])
        random = uniforms(self.seed, start, len(scores))
        cells = self.reference.cells(scores, random[:, 0])
        p = p_values(cells, random[:, 1], self.state.urn)
        self._count(bet(p, start, self.state.log_stakes, self.state.bins), flags, now)

    def _count(self, capital: np.ndarray, flags: np.ndarray, now: float) -> None:
        state, start = self.state, int(self.state["images"])
        if not start:
            state["started"] = now
        crossed = np.flatnonzero(capital >= -math.log(self.alpha))
        if len(crossed) and not state["alarm_at"]:
            state["alarm_at"], state["alarm_time"] = start + int(crossed[0]) + 1, now
        largest, flagged = float(capital.max()), state["flagged"]
        state["log_largest"] = max(largest, state["log_largest"])
        stride = int(state["stride"])
        for i in range(-(start + 1) % stride, len(capital), stride):
            state.add_point(start + i + 1, float(capital[i]), flagged + float(flags[: i + 1].sum()), now)
        n = len(capital)
        fading = _FADING ** np.arange(n - 1, -1, -1)
        state["late_images"] = state["late_images"] * _FADING**n + float(fading.sum())
        state["late_flagged"] = state["late_flagged"] * _FADING**n + float((fading * flags).sum())
        state["images"] = start + n
        state["flagged"] = flagged + float(flags.sum())
        state["log_capital"], state["updated"] = float(capital[-1]), now

    def reset(self) -> None:
        """Begin anew: stake 1, counts 0, and the stream so far is forgotten. For a known and mended cause: whoever
        resets after every alarm gets a false one, alpha being the chance each time."""
        fresh = State.fresh(self.reference.balls, len(self.class_names), int(self.state["resets"]) + 1)
        self.state.values[:] = fresh.values

    @property
    def alarm(self) -> bool:
        """Whether the capital has reached 1 / alpha since the last reset."""
        return self.state["alarm_at"] > 0

    def report(self) -> DriftReport:
        """What is known now."""
        s, ten = self.state, math.log(10)
        images, flagged = int(s["images"]), _count(s["flagged"])
        low, high = rate_interval(flagged, images)
        return DriftReport(
            model=self.model,
            alpha=self.alpha,
            alarm=self.alarm,
            alarm_at=int(s["alarm_at"]) or None,
            alarm_time=s["alarm_time"] or None,
            capital=math.exp(s["log_capital"]) if s["log_capital"] < 707 else None,
            log10_capital=s["log_capital"] / ten,
            log10_largest=s["log_largest"] / ten,
            log10_alarm=-math.log10(self.alpha),
            images=images,
            flagged=flagged,
            unscored=int(s["unscored"]),
            flag_rate=None if flagged is None or not images else flagged / images,
            flag_rate_low=low,
            flag_rate_high=high,
            target_flag_rate=self.target_flag_rate,
            late_flag_rate=None if flagged is None or not images else s["late_flagged"] / s["late_images"],
            calibration_images=self.reference.n,
            classes=tuple(self._class(c) for c in range(len(self.class_names))),
            curve=self._curve(),
            started=s["started"] or None,
            updated=s["updated"] or None,
            resets=int(s["resets"]),
        )

    def _class(self, c: int) -> ClassReport:
        images, flagged = int(self.state.classes[0, c]), _count(self.state.classes[1, c])
        low, high = rate_interval(flagged, images)
        rate = None if flagged is None or not images else flagged / images
        return ClassReport(
            class_name=self.class_names[c],
            images=images,
            flagged=flagged,
            flag_rate=rate,
            flag_rate_low=low,
            flag_rate_high=high,
        )

    def _curve(self) -> tuple[CurvePoint, ...]:
        s = self.state
        rows = s.curve[: int(s["points"])].tolist()
        if s["images"] and (not rows or rows[-1][0] < s["images"]):
            rows.append([s["images"], s["log_capital"], s["flagged"], s["updated"]])
        return tuple(
            CurvePoint(images=int(n), log10_capital=log / math.log(10), flagged=_count(flagged), time=when)
            for n, log, flagged, when in rows
        )


def _count(flagged: float) -> int | None:
    """NaN is what flags that were not given add up to."""
    return None if math.isnan(flagged) else int(flagged)


def rate_interval(hits: int | None, n: int) -> tuple[float, float]:
    """Exact 95 % interval of a rate from `hits` among `n` (Clopper & Pearson 1934); (0, 1) for n = 0 and where the
    hits are not known."""
    if hits is None or not n:
        return 0.0, 1.0
    low = beta_interval(hits, n - hits + 1, COVERAGE)[0] if hits else 0.0
    high = beta_interval(hits + 1, n - hits, COVERAGE)[1] if hits < n else 1.0
    return low, high
