"""`guard.scan`: the verdicts on a whole data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..detector import Guard
from ..paths import path_given
from ..requests import ScanRequest

if TYPE_CHECKING:
    from ..scanning.result import ScanSummary


def scan(
    g: Guard | str | Path,
    data: Any,
    *,
    out: str | Path,
    labelled: bool = False,
    cross_fit: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    batch_size: int = 64,
    shard_size: int = 4096,
    device: str = "auto",
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto",
    seed: int = 0,
) -> ScanSummary:
    """Score a whole data set into Parquet, and say what is strange in it.

    ``out/part-00000.parquet`` ... have a row per image: row, path, label, class_name, probability, ood_score, is_ood,
    p_value, and error for one that could not be read; those never stop a scan. Each file is whole or absent: called
    again, a scan that was killed goes on with those that are absent. ``out/report.html`` and ``out/summary.json``
    have the OOD rate with its interval, a drift test against the calibration images, the most OOD and most ordinary
    images, and the corrupt files. Memory does not grow with the images, but for their list (of a folder the paths).

    Args:
        g: a guard or the path of one. An ``.onnx`` file needs no torch, and on a CPU it is run in several processes.
        data: images in any form that `train` takes.
        out: the folder. One that holds another scan (other images, guard or settings) is refused.
        labelled: read the data's labels, which must be classes of the guard. The files get given_label, given_class and
            given_probability, the report likely mislabelled and off-class images (`guard.scanning.labels`). Take a
            guard that was not trained on these images: what a classifier has learned by heart it does not find wrong.
        cross_fit: folds, e.g. 5, for images that the guard was trained on. A new last layer and score are fitted on the
            guard's features of the other folds and asked about each; the report judges the labels by their answers, and
            `out` has them in ``cross-fitted-*.parquet``. Needs `labelled`, and a run folder (its features; torch).
        workers: processes that decode and, for an ``.onnx`` file on a CPU, score; default one per core, none for fewer
            than 1024 images; 0 for none.
        ray: the address of a Ray cluster on whose CPUs a shard is a task: ``host:6379`` of its head node, "auto"
            for the one that runs here, or "local", which starts `workers` processes here.
            Every node needs ood-guard, and guard and images under the same paths or at a URL. Needs the extra `ray`.
        batch_size: images per run of the graph; results do not depend on it.
        shard_size: images per Parquet file, and so how many are scored again after a kill, at most.
        device: "auto", "cpu" or "cuda", for a guard that is given by its path.
        runtime: what runs an ``.onnx`` file, as in `load`.
        seed: of the random order in which the drift test takes the images.

    Returns:
        `ScanSummary`: ``print(summary)`` shows the findings; ``summary.json`` holds the same.

    Raises:
        ConfigError: `out` holds another scan, or another process scans into it; `cross_fit` of an exported file, or
            without `labelled`.
        DataError: no images; with `labelled` classes that the guard does not have; with `cross_fit` a class with fewer
            than two different images.
        MissingExtraError: pyarrow, or with `ray` ray, is not installed.
        RuntimeUnavailableError: no Ray cluster answers at the address.
    """
    from ..scanning.scan import scan as run

    with ScanRequest.checked():
        request = ScanRequest(
            g=g,
            data=data,
            out=path_given(out, "out"),
            labelled=labelled,
            cross_fit=cross_fit,
            workers=workers,
            ray=ray,
            batch_size=batch_size,
            shard_size=shard_size,
            device=device,
            runtime=runtime,
            seed=seed,
        )
    return run(request)
