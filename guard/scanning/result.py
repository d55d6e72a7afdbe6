"""What a scan found, as records; `ScanSummary` is ``summary.json``."""

from __future__ import annotations

import math

from ..monitoring.report import ClassReport, DriftReport
from ..record import Record


class ScannedImage(Record):
    """One image: `row` and `path` as in the shards, and its verdict; what an unlabelled scan has not is None."""

    row: int
    path: str
    class_name: str
    probability: float
    ood_score: float
    is_ood: bool
    p_value: float | None = None
    given_class: str | None = None
    given_probability: float | None = None


class CorruptImage(Record):
    """An image that could not be read, and why."""

    row: int
    path: str
    error: str


class Pair(Record):
    """How many images of a given class are likely of another."""

    given_class: str
    class_name: str
    images: int


class LabelReport(Record):
    """Likely mislabelled and off-class images of a labelled scan (`guard.scanning.labels` has the equations).

    Attributes:
        images: those that could be read. agreeing: those whose given class is the predicted one.
        mislabelled: how many are likely of the class that is predicted. worst: of these the first `SHOWN`, by the
            smallest p(given) - p(predicted). pairs: the commonest pairs of classes among them.
        class_thresholds: (C,) the mean probability of a class over the images that are given as it; None without such.
        off_class: how many are likely of none of the guard's classes; None where the guard is not calibrated.
        off_class_p_value: images at or below this are; None where there are none. false_discovery_rate: at most this
            share of them is expected to be ordinary; None where nothing is promised, of cross-fitted p-values.
        strangest: the first `SHOWN`, smallest p-value first.
        folds: of a cross-fitted judgement, whose verdicts all of these are; 0 for the guard's own.
    """

    images: int
    agreeing: int
    mislabelled: int
    worst: tuple[ScannedImage, ...]
    pairs: tuple[Pair, ...]
    class_thresholds: tuple[float | None, ...]
    off_class: int | None
    off_class_p_value: float | None
    false_discovery_rate: float | None
    strangest: tuple[ScannedImage, ...]
    folds: int = 0


class ScanSummary(Record):
    """What `guard.scan` found.

    Attributes:
        out: the folder of the shards. guard, data: as in scan.json.
        images: rows in all. scored: those that could be read. shards: files. made: how many of them this call wrote.
        flagged: images with is_ood. ood_rate: flagged / scored, None where nothing could be read.
        ood_rate_low, ood_rate_high: exact 95 % interval of the rate, the images taken as drawn at random.
        target_rate: what the calibration promises on in-distribution images; None for an uncalibrated guard.
        classes: by predicted class.
        drift: the drift test over the images in random order; None for an uncalibrated guard.
        most_ood, most_ordinary: highest and lowest ood_score first.
        corrupt: images that could not be read; corrupt_images: the first of them.
        labels: of a labelled scan, else None.
        notes: what the reader should know, each a sentence.
    """

    out: str
    guard: str
    data: str
    images: int
    scored: int
    shards: int
    made: int
    flagged: int
    ood_rate: float | None
    ood_rate_low: float
    ood_rate_high: float
    target_rate: float | None
    classes: tuple[ClassReport, ...]
    drift: DriftReport | None
    most_ood: tuple[ScannedImage, ...]
    most_ordinary: tuple[ScannedImage, ...]
    corrupt: int
    corrupt_images: tuple[CorruptImage, ...]
    labels: LabelReport | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The findings, a sentence each."""
        from ..monitoring.page import headline

        said = [f"{self.scored} of {self.images} images of {self.data} scored by {self.guard}"]
        if self.ood_rate is not None:
            low, high = 100 * self.ood_rate_low, 100 * self.ood_rate_high
            target = "" if self.target_rate is None else f"; {100 * self.target_rate:.3g} % of ordinary ones would be"
            said.append(
                f"{self.flagged} flagged as out-of-distribution: {100 * self.ood_rate:.2f} % (95 % interval "
                f"{low:.2f} to {high:.2f} %{target})"
            )
        if self.drift is not None and self.scored:
            said.append(headline(self.drift))
        if self.labels is not None:
            said += label_lines(self.labels)
        if self.corrupt:
            said.append(f"{self.corrupt} could not be read, e.g. {self.corrupt_images[0].error}")
        return said + list(self.notes)


def label_lines(found: LabelReport) -> list[str]:
    """What is likely wrong with the labels, a sentence each."""
    agreeing = 100 * found.agreeing / max(found.images, 1)
    who = f"the others predict ({found.folds} folds, cross-fitted)" if found.folds else "the guard predicts"
    said = [
        f"{agreeing:.2f} % of {found.images} given labels are what {who}",
        f"{found.mislabelled} are likely of another class than is given",
    ]
    if found.false_discovery_rate is None:
        at_most = f"a cross-fitted p-value of at most {found.off_class_p_value}"
        said.append(f"{found.off_class} are the least like the others: {at_most}, which of any data 1 % have")
    elif found.off_class is not None:
        rate = f"{100 * found.false_discovery_rate:.3g} %"
        said.append(f"{found.off_class} are likely of none of the classes (false discovery rate {rate})")
    return said


def number_or_none(value: float) -> float | None:
    """NaN is None, for JSON."""
    return None if math.isnan(value) else float(value)
