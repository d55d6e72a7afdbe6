"""A guard over HTTP: ``GUARD_MODEL=guard.onnx bentoml serve serving:svc``, or ``guard serve guard.onnx``.

    settings.py   every GUARD_* environment variable
    service.py    `svc`, the BentoML service: verify once, then workers
    app.py        the HTTP contract: routes, status codes, sentences
    bodies.py     bytes off the wire, counted, and the images in them
    engine.py     decode each image, batch what is waiting, score
    batching.py   the micro-batcher
    metrics.py    Prometheus
    ui.py, page/  the page for people
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
