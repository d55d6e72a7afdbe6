"""What a drift monitor found, as a record."""

from __future__ import annotations

from ..record import Record


class ClassReport(Record):
    """The flags among images that were predicted as one class.

    Attributes:
        images, flagged: counts; flagged is None where flags were not given.
        flag_rate: flagged / images; None before the first image, and where flags were not given.
        flag_rate_low, flag_rate_high: exact 95 % interval of the rate (Clopper & Pearson 1934), at a time fixed before.
    """

    class_name: str
    images: int
    flagged: int | None
    flag_rate: float | None
    flag_rate_low: float
    flag_rate_high: float


class CurvePoint(Record):
    """The test after so many images; `time` in seconds since 1970, log10_capital 0 = as at the start; flagged is None
    where flags were not given."""

    images: int
    log10_capital: float
    flagged: int | None
    time: float


class DriftReport(Record):
    """What `DriftMonitor.report` says.

    Attributes:
        model: identity of the guard, "" where it is not known.
        alpha: the chance that exchangeable traffic ever raises the alarm is at most this.
        alarm: the capital reached 1 / alpha since the last reset. It stays until the next.
        alarm_at: images by then; None without an alarm.
        alarm_time: seconds since 1970; None without an alarm.
        capital: of the test, 1 at the start; evidence against "as the calibration images"; None above 1e307.
        log10_capital, log10_largest: now, and the largest so far.
        log10_alarm: log10 of 1 / alpha.
        images, flagged, unscored: counts; a score that is NaN is unscored and takes no part; flagged is None where
            flags were not given.
        flag_rate, flag_rate_low, flag_rate_high: share of flagged images with its exact 95 % interval (Clopper &
            Pearson 1934), for an amount of images fixed before; before the first image, and where flags were not
            given, the share is None and the interval 0 to 1.
        target_flag_rate: what the guard's calibration promises on in-distribution images.
        late_flag_rate: of about the last 300 images (each counts half as much as one 200 images later).
        calibration_images: scores that the stream is compared with.
        classes: by predicted class; empty where classes were not given.
        curve: at most 256 points, evenly spaced in images.
        started, updated: time of the first and last image, seconds since 1970; None before it.
        resets: how often the test began anew.
    """

    model: str
    alpha: float
    alarm: bool
    alarm_at: int | None
    alarm_time: float | None
    capital: float | None
    log10_capital: float
    log10_largest: float
    log10_alarm: float
    images: int
    flagged: int | None
    unscored: int
    flag_rate: float | None
    flag_rate_low: float
    flag_rate_high: float
    target_flag_rate: float | None
    late_flag_rate: float | None
    calibration_images: int
    classes: tuple[ClassReport, ...]
    curve: tuple[CurvePoint, ...]
    started: float | None
    updated: float | None
    resets: int
