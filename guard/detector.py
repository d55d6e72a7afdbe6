"""`Guard`: images in, verdicts out. The file to read first.

    images --guard.preprocess--> uint8 (N, H, W, channels) --runtime--> Outputs --p-values--> Verdicts

The same class answers for a torch module in training, for `guard.onnx` in ONNX Runtime and for a TensorRT engine:
only `runtime` differs. Thresholds and temperature live in the manifest and are passed with every call, so that
`calibrate` works on an exported file too (`guard.calibration.decision_rule` does what an older graph has no inputs
for).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .calibration.by_class import asked_or_own, calibrate_by_class, check_asked
from .calibration.conformal import calibrate, check_spread, p_values
from .calibration.decision_rule import Decision
from .calibration.temperature import Labelled, checked_labels, fit_temperature
from .deep_images import watched
from .errors import ConfigError, ImageError
from .image_arrays import as_sequence
from .manifest import Manifest, Preprocess, TemperatureScaling
from .runtimes import Runtime, optional_inputs
from .verdict import Verdicts

if TYPE_CHECKING:
    from .graph.module import GuardModule

log = logging.getLogger("ood_guard")


class Guard:
    """A classifier that knows what it was not taught.

    Made by `guard.train`, `guard.fit` or `guard.load`; not by hand.

    Attributes:
        manifest: everything about this guard except its weights.
        runtime: what runs its graph.
        splits: row indices of the training data by split name, after `guard.train` or `guard.fit`; else empty.
        path: the file it was loaded from, or None.
        calibration_images: the held-out images (`guard.data.ImageData`) right after `guard.train` or `guard.fit`, which
            the export verifies itself on; else None.
    """

    def __init__(
        self,
        manifest: Manifest,
        runtime: Runtime,
        *,
        splits: dict[str, np.ndarray] | None = None,
        path: Path | None = None,
        calibration_images: Any = None,
    ) -> None:
        self.manifest = manifest
        self.runtime = runtime
        self.splits = splits or {}
        self.path = path
        self.calibration_images = calibration_images

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"Guard({m.identity}: {len(m.class_names)} classes, {m.backbone}, score {m.score_label}, "
            f"threshold {m.threshold:.4g}, {self.runtime.name} on {self.runtime.device})"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names

    @property
    def threshold(self) -> float:
        """An image is flagged when its ood_score is above this; +inf before calibration. Under a class-conditional
        calibration each class adds its offset (``manifest.calibration.class_thresholds`` are the sums)."""
        return self.manifest.threshold

    def predict(self, images: Any, *, batch_size: int = 64, threshold: float | None = None) -> Verdicts:
        """Label images and flag those that are out-of-distribution.

        Args:
            images: one image or a sequence of them, each a path, encoded bytes, a PIL image or a uint8 array
                (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or one uint8 array (N, H, W[, C]). torch's uint8 tensors may
                have their channels first: (N, C, H, W), or (C, H, W) in a list. What can be read in two ways is
                refused.
            batch_size: images per run of the graph; results do not depend on it.
            threshold: another threshold for this call only; the offsets of a class-conditional calibration are still
                added to it.

        Returns:
            `Verdicts` in the order given.

        Raises:
            ImageError: an image that cannot be decoded; the message names which one.
        """
        from .preprocess import to_input

        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        items = as_sequence(images)
        starts = range(0, len(items), batch_size)
        batches = (
            np.stack([_named(to_input, items[i], i, self.manifest) for i in range(s, min(s + batch_size, len(items)))])
            for s in starts
        )
        with watched() as deep:
            verdicts = self.predict_batches(batches, threshold=threshold)
        deep.warn("predict", len(items), once=True)
        return verdicts

    def predict_batches(self, batches: Iterable[np.ndarray], *, threshold: float | None = None) -> Verdicts:
        """`predict` for batches that are already uint8 (n, H, W, channels) of the graph's size."""
        decision = Decision.of(self.manifest, None if threshold is None else _number(threshold))
        names = optional_inputs(self.runtime)
        given = decision.inputs(names)
        outputs = [
            decision.complete(self.runtime.run(np.ascontiguousarray(batch), decision.threshold, **given), names)
            for batch in batches
            if len(batch)
        ]
        score = _joined([o.ood_score for o in outputs], (0,), np.float32)
        label = _joined([o.label for o in outputs], (0,), np.int64)
        return Verdicts(
            label=label,
            probabilities=_joined([o.probabilities for o in outputs], (0, decision.classes), np.float32),
            ood_score=score,
            is_ood=_joined([o.is_ood for o in outputs], (0,), np.bool_),
            p_value=p_values(score, self.manifest.calibration, label),
            threshold=decision.threshold,
            class_names=self.class_names,
            class_offsets=decision.class_offsets,
        )

    def calibrate(
        self,
        images: Any,
        *,
        alpha: float | None = None,
        batch_size: int = 64,
        labels: Any = None,
        class_conditional: bool | None = None,
        min_class_images: int | None = None,
        temperature_scaling: bool = False,
    ) -> Guard:
        """The same guard with thresholds and p-values from new in-distribution images; nothing is retrained.

        Args:
            images: what `predict` takes; in-distribution, and not the images the classifier was trained on.
            alpha: target false-alarm rate in (0, 1); needs alpha >= 1 / (n + 1). By default the guard's own, or 0.05.
            labels: (n,) true class indices of the images; only temperature scaling needs them.
            class_conditional: a threshold for every predicted class, so that each class is flagged at most at `alpha`
                (`guard.calibration.by_class`), or one for all; by default as the guard has it.
            min_class_images: a class with fewer of the images keeps the pooled threshold; default 50, or what `alpha`
                needs where that is more.
            temperature_scaling: fit the temperature of the probabilities anew (`guard.calibration.temperature`); by
                default it stays as it is. Labels and ood_scores do not change.

        Returns:
            A new `Guard` over the same runtime. `save` it, or export it, to keep the calibration.
        """
        alpha, class_conditional = asked_or_own(alpha, class_conditional, self.manifest.calibration)
        check_asked(alpha, class_conditional, min_class_images)  # before the work
        if temperature_scaling and labels is None:
            raise ConfigError("temperature_scaling needs labels=: the true class index of every image")
        verdicts = self.untempered().predict(images, batch_size=batch_size)
        return self.calibrate_by(
            verdicts,
            alpha=alpha,
            labels=labels,
            class_conditional=class_conditional,
            min_class_images=min_class_images,
            temperature_scaling=temperature_scaling,
        )

    def calibrate_by(
        self,
        verdicts: Verdicts,
        *,
        alpha: float | None = None,
        labels: Any = None,
        class_conditional: bool | None = None,
        min_class_images: int | None = None,
        temperature_scaling: bool = False,
    ) -> Guard:
        """`calibrate` from what `untempered` said about the images already."""
        alpha, class_conditional = asked_or_own(alpha, class_conditional, self.manifest.calibration)
        if labels is not None:
            labels = checked_labels(labels, len(verdicts), len(self.class_names))
        predicted = verdicts.label if class_conditional else None
        g = self.with_calibration(
            verdicts.ood_score, alpha=alpha, predicted=predicted, min_class_images=min_class_images
        )
        return g.with_temperature(Labelled(verdicts.probabilities, labels)) if temperature_scaling else g

    def with_calibration(
        self,
        scores: np.ndarray,
        *,
        alpha: float = 0.05,
        predicted: np.ndarray | None = None,
        min_class_images: int | None = None,
    ) -> Guard:
        """`calibrate` from scores (n,) that were computed already; class-conditional where the predicted labels (n,)
        are given too.

        Raises:
            CalibrationError: as `guard.calibration.conformal.calibrate`; or every image has the same score.
        """
        check_spread(scores)
        if predicted is None:
            calibration = calibrate(scores, alpha=alpha)
        else:
            classes = len(self.class_names)
            calibration = calibrate_by_class(
                scores, predicted, classes=classes, alpha=alpha, min_class_images=min_class_images
            )
            pooled = [name for name, own in zip(self.class_names, calibration.class_intervals, strict=True) if not own]
            if pooled:
                log.warning(
                    "%d of %d classes keep the pooled threshold, with fewer than %d calibration images predicted as "
                    "them: %s",
                    len(pooled),
                    classes,
                    calibration.min_class_images,
                    ", ".join(pooled[:10]) + (" ..." if len(pooled) > 10 else ""),
                )
        return self._with(self.manifest.model_copy(update={"calibration": calibration, "parity": None}))

    def with_temperature(self, held_out: Labelled, test: Labelled | None = None) -> Guard:
        """The same guard with a temperature fitted on held-out images and measured on the test images, where there are
        such; both with the probabilities of `untempered`.

        Raises:
            CalibrationError: no temperature fits these images best; the message says why.
        """
        return self._tempered(fit_temperature(held_out, test))

    def untempered(self) -> Guard:
        """The same guard with the classifier's own probabilities."""
        return self if self.manifest.temperature is None else self._tempered(None)

    def _tempered(self, scaling: TemperatureScaling | None) -> Guard:
        return self._with(self.manifest.model_copy(update={"temperature": scaling, "parity": None}))

    def _with(self, manifest: Manifest) -> Guard:
        """This guard under another manifest."""
        return Guard(
            manifest,
            self.runtime,
            splits=self.splits,
            path=self.path,
            calibration_images=self.calibration_images,
        )

    @property
    def module(self) -> GuardModule:
        """The torch module behind a trained or fitted guard (its threshold is the manifest's).

        Raises:
            ConfigError: for an exported guard, which has no torch module.
        """
        module: GuardModule | None = getattr(self.runtime, "module", None)
        if module is None:
            raise ConfigError(
                f"this guard runs on {self.runtime.name} and has no torch module; load its run folder instead"
            )
        return module

    def save(self, path: str | Path) -> Path:
        """Write this guard again where only its calibration changed: an exported ONNX file keeps its network and gets
        the new thresholds and temperature, in the manifest and as the graph's own defaults, so that every consumer of
        the file decides alike. A graph that has no input for them yet gets one (needs the onnx package). A TensorRT
        engine keeps its graph; a torch guard is written with `save_pretrained`.

        Returns:
            The path written.
        """
        from .artefact.save import save

        return save(self, Path(path))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``guard.safetensors`` and ``guard.json`` into `folder` (made if missing); returns the folder."""
        from .artefact.run_folder import save_pretrained

        return save_pretrained(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto", model: Any = None) -> Guard:
        """Load a run folder, or a Hugging Face hub id that holds one.

        Args:
            folder: what `save_pretrained` wrote, or ``user/name`` on the hub (needs huggingface_hub and a network).
            device: "auto", "cpu" or "cuda".
            model: the classifier's architecture for a guard made by `guard.fit` on a model that ood-guard cannot
                build by name; its weights are overwritten.
        """
        from .artefact.run_folder import open_run_folder

        return cls(*open_run_folder(folder, device=device, model=model))


def _number(threshold: Any) -> float:
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        raise ConfigError(f"threshold must be a number, got {threshold!r}") from None
    if np.isnan(value):
        raise ConfigError("threshold must be a number, got NaN")
    return value


def _named(to_input: Callable[[Any, Preprocess], np.ndarray], image: Any, index: int, manifest: Manifest) -> np.ndarray:
    try:
        return to_input(image, manifest.preprocess)
    except ImageError as error:
        raise ImageError(f"image {index}: {error}") from None


def _joined(parts: list[np.ndarray], empty_shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(empty_shape, dtype)
