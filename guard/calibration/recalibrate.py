"""`calibrate`: new thresholds and a new temperature for a guard, from data in any form; nothing is retrained."""

from __future__ import annotations

import logging

from ..artefact.load import opened
from ..artefact.places import writable_file, writable_folder
from ..artefact.save import FILES, check_saveable
from ..data.test_images import calibration_images
from ..detector import Guard
from ..requests import CalibrateRequest
from .by_class import asked_or_own, check_asked

log = logging.getLogger("ood_guard")


def calibrate(request: CalibrateRequest) -> Guard:
    """See `guard.calibrate`."""
    g = opened(request.g)
    alpha, by_class = asked_or_own(request.alpha, request.class_conditional, g.manifest.calibration)
    check_asked(alpha, by_class, request.min_class_images)  # before any image is decoded
    if request.out is not None:
        check_saveable(g, request.out)
        if request.out.suffix in FILES:
            writable_file(request.out)
        else:  # a run folder is made where it is written
            writable_folder(request.out.parent)
    images, labels, note = calibration_images(g.manifest, request.data, labelled=request.temperature_scaling)
    if note:
        log.info("%s", note)
    verdicts = g.untempered().predict_batches(batch for batch, _ in images.batches(request.batch_size))
    calibrated = g.calibrate_by(
        verdicts,
        alpha=alpha,
        labels=labels,
        class_conditional=by_class,
        min_class_images=request.min_class_images,
        temperature_scaling=request.temperature_scaling,
    )
    if request.out is not None:
        calibrated.save(request.out)
    return calibrated
