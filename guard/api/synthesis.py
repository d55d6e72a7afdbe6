"""`guard.synth`: the outliers to make a guard with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .._siblings import needs
from ..detector import Guard
from ..geometry import Resize
from ..manifest import Interpolation
from ..paths import path_given
from ..requests import SynthRequest

if TYPE_CHECKING:
    from train.outliers.store.store import Store


def synth(
    data: Any,
    *,
    method: str,
    out: str | Path,
    count: int | None = None,
    classifier: Guard | str | Path | None = None,
    match: str | Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 128,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
    background: Any = None,
    fill: Any = None,
    in_chans: int = 3,
    calibration: Any = None,
    test: Any = None,
    gallery: bool = True,
    workers: int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Store:
    """Make outlier images from in-distribution ones: a store, which ``guard.train(..., outliers="the/store")`` takes.

    The store is a folder of Parquet shards with a card that says how they were made. A run that was killed resumes at
    the first missing shard and ends with the same images; a larger `count` makes the store grow; a folder that was
    made otherwise is refused. An audit says how the outliers differ from in-distribution images in low-level
    statistics (sharpness, contrast ...), which a detector would learn in place of anything useful, and goes into the
    card and the gallery.

    Args:
        data: labelled images in any form that `train` takes. Outliers are made from the images that `train` would
            train on, given the same seed, calibration and test; those it holds out stay out.
        method: the synthesiser; ``guard synthesisers`` lists them.
        out: the store's folder.
        count: outliers in all; default one per training image, at most 50,000.
        classifier: a guard (or the path of one) to score the outliers with. Where it was trained on this data, the
            images it held out stay out. Some synthesisers need one; they take a run folder.
        match: what each outlier takes over from a random in-distribution image: any of "spectrum", "colour",
            "saturation", "contrast", "brightness", "coding".
        seed: of splits and outliers.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        batch_size: in-distribution images per draw; as many outliers are made of them.
        image_size, resize, crop_pct, interpolation, background, fill, in_chans: of the images, where no classifier
            says; as in `train`.
        calibration, test: what `train` will hold out; as there.
        gallery: write ``gallery.html`` into the folder.
        workers, threads: as in `train`.
        **options: the synthesiser's own options; see ``guard synthesisers NAME``.

    Returns:
        The store: ``.folder``, ``.card`` (with ``.card.audit``) and ``.gallery``, the page's path.

    Raises:
        ConfigError: the folder holds outliers that were made otherwise; every difference is named.

    Example:
        >>> guard.synth("digits", method="patch_shuffle", count=2000, out="stores/a")  # doctest: +SKIP
    """
    with SynthRequest.checked():
        request = SynthRequest(
            data=data,
            method=method,
            out=path_given(out, "out"),
            count=count,
            classifier=classifier,
            match=(match,) if isinstance(match, str) else match,
            seed=seed,
            device=device,
            batch_size=batch_size,
            image_size=image_size,
            resize=resize,
            crop_pct=crop_pct,
            interpolation=interpolation,
            background=background,
            fill=fill,
            in_chans=in_chans,
            calibration=calibration,
            test=test,
            gallery=gallery,
            workers=workers,
            threads=threads,
            options=options,
        )
    return cast("Store", needs("train", "train.runs.synth").synth(request))
