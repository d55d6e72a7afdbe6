"""`calibrate`: new thresholds and a new temperature for a guard, from data in any form; nothing is retrained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..data.test_images import calibration_images
from ..detector import Guard
from .by_class import check_asked

log = logging.getLogger("ood_guard")


def calibrate(
    g: Guard | str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    alpha: float = 0.05,
    class_conditional: bool = False,
    min_class_images: int | None = None,
    temperature_scaling: bool = False,
    batch_size: int = 64,
) -> Guard:
    """See `guard.calibrate`."""
    if not isinstance(g, Guard):
        from ..artefact.load_save import load

        g = load(Path(g))
    check_asked(alpha, class_conditional, min_class_images)  # before any image is decoded
    images, labels, note = calibration_images(g.manifest, data, labelled=temperature_scaling)
    if note:
        log.info("%s", note)
    verdicts = g.untempered().predict_batches(batch for batch, _ in images.batches(batch_size))
    calibrated = g.calibrate_by(
        verdicts,
        alpha=alpha,
        labels=labels,
        class_conditional=class_conditional,
        min_class_images=min_class_images,
        temperature_scaling=temperature_scaling,
    )
    if out is not None:
        calibrated.save(out)
    return calibrated
