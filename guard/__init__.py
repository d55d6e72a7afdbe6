"""Give an image classifier a guard: the label, and whether the input looks like anything it was trained on.

    >>> import guard
    >>> g = guard.train("digits", method="plain", epochs=3, out="runs/a")       # doctest: +SKIP
    >>> guard.export(g, "guard.onnx")                                           # doctest: +SKIP
    >>> g = guard.load("guard.onnx")                       # no torch from here # doctest: +SKIP
    >>> verdict = g.predict("photo.jpg")[0]                                     # doctest: +SKIP
    >>> verdict.class_name, verdict.is_ood, verdict.ood_score, verdict.p_value  # doctest: +SKIP

`ood_score` is higher for images that are more out-of-distribution, everywhere; an image is flagged when its score is
above the threshold, which is calibrated on held-out images to a stated false-alarm rate.

    api/           the public functions; requests.py and export_requests.py are what they
                   were asked for, benchmark_file.py what a benchmark's file says
    detector.py    `Guard`, what they make: classifier, score, threshold; verdict.py its answers
    manifest.py    everything about a guard except its weights, exported.py what is of its
                   exported file alone; errors.py every error a user can cause
    record.py      options that explain themselves, and the registry of what has them; renamed.py their old names
    data/          images in any form, their classes and splits; preprocess.py one image
    scores/        outputs -> ood_score, a file per score
    heads/         features -> logits, a file per head
    calibration/   thresholds, per class too, p-values, temperature
    monitoring/    does the traffic still look like the calibration images?
    graph/         the module that is exported, and ONNX classifiers
    runtimes/      torch, ONNX Runtime, TensorRT
    artefact/      what is written to disk and read again
    evaluation/    metrics, tables, charts, the report
    latency/       what an exported guard costs at run time
    scanning/      a whole data set into Parquet, and what is strange in it
    client/        asks a service over HTTP
    cli/, demo/    the command line; everything once on handwritten digits

`import guard` loads numpy and pydantic only. Training and export (torch) and the runtimes load when called.
"""

from __future__ import annotations

from . import errors
from .api import (
    bench,
    benchmark,
    calibrate,
    create_score,
    evaluate,
    export,
    fit,
    list_methods,
    list_scores,
    load,
    plan_benchmark,
    register_score,
    scan,
    synth,
    train,
    verify,
)
from .client import AsyncClient, Client
from .detector import Guard
from .monitoring import DriftMonitor
from .verdict import Verdict, Verdicts

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "DriftMonitor",
    "Guard",
    "Verdict",
    "Verdicts",
    "bench",
    "benchmark",
    "calibrate",
    "create_score",
    "errors",
    "evaluate",
    "export",
    "fit",
    "list_methods",
    "list_scores",
    "load",
    "plan_benchmark",
    "register_score",
    "scan",
    "synth",
    "train",
    "verify",
]
