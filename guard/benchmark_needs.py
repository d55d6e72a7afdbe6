"""What a benchmark needs and is expected to cost, as its file states it: the key `needs`. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from .record import Record, option


class Stated(Record):
    """Images that need not be there for a plan."""

    images: int = option(..., "How many.", ge=1)
    classes: int | None = option(None, "Of how many classes, where they are labelled.", ge=2)
    about: str = option("", "Which images these are, and where they come from.")


class Needs(Record):
    """What must be there before a benchmark runs, and what it is expected to take."""

    images: Mapping[str, Stated] = option(
        {},
        "Sizes of train, test, OOD sets and images of outliers, by name, for --plan where they are not there.",
        rule="must map names to sizes, like {train: {images: 50000, classes: 100}}",
    )
    weights: Mapping[str, str] = option(
        {}, "Weights by what they are for, and where they come from.", rule="must map names to sentences"
    )
    gpu_hours: Mapping[str, float] = option(
        {}, "Estimated hours by GPU, as --plan reckons them.", rule="must map GPUs to hours, like {V100: 300}"
    )
    disk_gb: float | None = option(None, "Estimated room for what is made, in 10^9 bytes.", ge=0)
