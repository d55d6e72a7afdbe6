"""`guard.benchmark`: methods, heads, scores and seeds on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .._siblings import needs
from ..requests import BenchmarkRequest
from .arguments import mapping_of, path_of

if TYPE_CHECKING:
    from train.benchmark.expected import Outlook
    from train.benchmark.results import Results


def benchmark(
    file: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Train what a file names, fit every score on every network, and report which detects best at what cost.

    Each combination of backbone, method, head and seed is one run, trained once for all scores. A run that was stopped
    resumes; a row that is there with the same settings is not measured again; several processes that are started on one
    file divide the runs between them. ``results.csv``, ``results.md`` and ``report.html`` are written to the folder.

    Args:
        file: the YAML file, or a mapping with the same keys; see docs/benchmarking.md or ``guard benchmark --help``.
        out: folder of runs and report, in place of the file's ``out``.
        settings: keys that replace those of the file, nested as they are there: ``{"data": {"train": "photos/"}}``.

    Returns:
        `train.benchmark.results.Results`: ``.rows`` holds the numbers, ``print`` shows the table of means.

    Raises:
        guard.errors.GuardError: for whatever cannot be done, all of it before anything is trained.
    """
    return cast("Results", needs("train", "train.benchmark.benchmark").benchmark(_request(file, out, settings)))


def plan_benchmark(
    file: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Outlook:
    """What `benchmark` would make, train and measure: steps, images, disk, estimated GPU hours, and what is missing.

    Nothing is decoded, fetched or trained. Images that are not there count by the sizes that the file's ``needs``
    state. Hours are estimates, by times that papers report for named GPUs; ``print`` shows each with its origin. Of a
    benchmark that was begun, what is left is told.

    Args:
        file, out, settings: as for `benchmark`.

    Returns:
        `train.benchmark.expected.Outlook`: ``print`` shows it, ``.hours()`` are by GPU, ``.missing`` is not here.

    Raises:
        guard.errors.GuardError: what the benchmark would refuse, but for images; or the size of the training images is
            neither there nor stated.
    """
    return cast("Outlook", needs("train", "train.benchmark.outlook").outlook(_request(file, out, settings)))


def _request(file: Any, out: str | Path | None, settings: Mapping[str, Any] | None) -> BenchmarkRequest:
    with BenchmarkRequest.checked():
        return BenchmarkRequest(file=file, out=path_of(out), settings=mapping_of(settings))
