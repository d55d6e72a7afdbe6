"""A guard over HTTP: ``GUARD_MODEL=guard.onnx bentoml serve serving:svc``, or ``guard serve guard.onnx``.

    settings.py   every GUARD_* environment variable
    service.py    `svc`, the BentoML service: verify once, then workers
    front.py      what uvicorn calls: BentoML's health checks, and all else to the app
    app.py        one worker's HTTP application: every request's route, time, status and sentence
    routing.py    a path and its handler; the families of endpoints are files with `routes(worker)`:
      predict.py    images in, verdicts out
      explain.py    one image in, its verdict and what is behind it out
      drift.py      /drift and its reset
      scrape.py     /metrics
      admin.py      /admin/reload
      ui.py, page/  the page for people
      open_inference/   the protocol of KServe's and Triton's clients
      openapi/      the document of all of them
    worker.py     what a process holds; the way of an image through it, and who is told of its verdict
    drift_tests.py  does the traffic of each guard still look like its calibration images?
    models.py     the guards by name, each loaded and warm
    reload.py, control.py  a rolling update, and how all workers learn of it
    bodies.py     bytes off the wire, counted, and the images in them
    engine.py     decode each image, batch what is waiting, score
    batching.py   the micro-batcher
    scored.py     one scored image: verdict and probabilities
    token.py, cors.py, protection.py    who may ask, which pages may read, what browsers are told
    logs.py       log lines with the id of their request
    flagged.py    the images that were flagged, kept for people to look at
    metrics.py    Prometheus
    runner.py     start and stop a service from Python

`svc` is made when it is asked for, so that ``import serving`` needs neither BentoML nor a model.
"""

from __future__ import annotations

from typing import Any

__all__ = ["svc"]


def __getattr__(name: str) -> Any:
    if name == "svc":
        from .service import svc

        return svc
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
