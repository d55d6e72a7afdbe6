"""A guard in less than float32, with thresholds of its own, within a budget of what it may lose.

Its graph is made, run on held-out in-distribution images, and calibrated anew on them: scores shift, and a threshold of
float32 would flag another share. What it changes is measured beside the float32 graph, on the same images, and travels
in the manifest. int8 that loses more than the budget gets layers back in float32, those first that alone disturb most.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from guard.data.image_data import ImageData
from guard.data.test_images import calibration_images, ood_images
from guard.detector import Guard
from guard.errors import ConfigError, ExportError
from guard.evaluation.metrics import auroc
from guard.export_requests import ExportRequest
from guard.exported import PrecisionChange
from guard.manifest import Manifest
from guard.runtimes.onnx_session import OnnxSession
from guard.verdict import Verdicts

from ..optional_inputs import recalibrated
from ..parity import may_be_lost
from .floats import in_half, rounded
from .integers import Quantiser
from .stand_ins import stand_ins

log = logging.getLogger("ood_guard")

BATCH = 32
RANGES = 512  # images that the ranges of activations are chosen by
ALONE = 128  # images on which single layers are compared
STAND_INS = 2000  # at most so many, in place of OOD images


@dataclass(frozen=True)
class Lowered:
    """A graph in less than float32, with the defaults of its manifest."""

    graph: bytes
    manifest: Manifest


def lowered(source: Guard, graph: bytes, request: ExportRequest) -> Lowered:
    """The guard's float32 `graph` in `request.precision`, calibrated and measured.

    Raises:
        ConfigError: no in-distribution images are at hand, or the guard is not calibrated.
        ExportError: it loses more than the budget, or its numbers overflow.
    """
    return _Lowering(source.manifest, graph, _held_out(source, request), request).run()


def _held_out(source: Guard, request: ExportRequest) -> tuple[ImageData, np.ndarray | None]:
    """The calibration images, and their labels where they have such."""
    if source.manifest.calibration is None:
        raise ConfigError("the guard has no threshold yet; calibrate it first: guard.calibrate(g, data)")
    if request.data is not None:
        images, labels, note = calibration_images(source.manifest, request.data, labelled=False)
        if note:
            log.info("%s", note)
        return images, labels
    held = source.calibration_images
    if held is None:
        raise ConfigError(
            f"precision={request.precision!r} takes a threshold of its own, and no in-distribution images are at hand; "
            "give data=: the data that the guard was made from (what it held out is used), or other images"
        )
    return held, held.labels if held.class_names == source.class_names else None


class _Lowering:
    """One export in less than float32."""

    def __init__(
        self, manifest: Manifest, graph: bytes, held: tuple[ImageData, np.ndarray | None], request: ExportRequest
    ) -> None:
        self.manifest, self.graph, self.request = manifest, graph, request
        self.images, self.labels = held
        self.far = None if request.ood is None else ood_images(manifest, "ood", request.ood)

    def run(self) -> Lowered:
        precision = self.request.precision
        if precision == "int8":
            return self._int8()
        # ONNX Runtime computes fp16 in float32 on CPUs and has no bf16 there: rounding shows what a GPU would compute
        found = self._measured(in_half(self.graph, precision), rounded(self.graph, precision), 0, ())
        return self._within_budget(found)

    def _int8(self) -> Lowered:
        """As few layers in float32 as the budget asks for."""
        quantiser = Quantiser(self.graph, self._first(RANGES), self.target)
        count = len(quantiser.layers)
        found = self._measured(made := quantiser.quantised(), made, count, ())
        ranked, kept = None, 1
        while self._lost(found) and kept < count:
            ranked = ranked or self._by_disturbance(quantiser)
            found = self._measured(made := quantiser.quantised(ranked[:kept]), made, count, tuple(ranked[:kept]))
            kept *= 2
        return self._within_budget(found)

    def _by_disturbance(self, quantiser: Quantiser) -> list[str]:
        """Layers by how much each alone, quantised, moves probabilities and scores, most first."""
        log.info("int8 loses too much; looking for the layers that it comes from")
        few = self._first(ALONE)
        exact = self._guard(self.graph).predict_batches(few)
        spread = float(exact.ood_score.std()) or 1.0

        def moved(layer: str) -> float:
            others = [one for one in quantiser.layers if one != layer]
            found = self._guard(quantiser.quantised(others)).predict_batches(few)
            by_score = np.abs(found.ood_score - exact.ood_score).mean() / spread
            return float(by_score + np.abs(found.probabilities - exact.probabilities).sum(1).mean())

        return sorted(quantiser.layers, key=moved, reverse=True)

    def _measured(self, graph: bytes, runs: bytes, layers: int, kept: tuple[str, ...]) -> Lowered:
        """`graph` with thresholds of its own; `runs` is what computes the same on the CPU."""
        guard = self._guard(runs)
        verdicts = self._finite(guard.predict_batches(self._all()))
        calibrated = self._calibrated(guard, verdicts)
        own = calibrated.manifest.calibration
        assert own is not None  # it was made just now
        flagged = verdicts.ood_score > (
            own.class_thresholds[verdicts.label] if own.class_conditional else np.float32(own.threshold)
        )
        exact, exact_far = self._exact
        change = PrecisionChange(
            target=self.target,
            images=len(verdicts),
            accuracy=None if self.labels is None else (self._right(exact), self._right(verdicts)),
            auroc=(
                float(auroc(exact.ood_score, exact_far)),
                float(auroc(verdicts.ood_score, self._finite(guard.predict_batches(self._ood())).ood_score)),
            ),
            ood="synthetic" if self.far is None else self.far.name,
            ood_images=len(exact_far),
            false_alarm_rate=(float(exact.is_ood.mean()), float(flagged.mean())),
            flag_flips=int(((exact.is_ood != flagged) | (exact.label != verdicts.label)).sum()),
            label_changes=int((exact.label != verdicts.label).sum()),
            weight_bits=7 if self.target == "cpu" else 8,
            layers=layers,
            layers_in_fp32=kept,
        )
        manifest = calibrated.manifest.model_copy(
            update={"precision": self.request.precision, "precision_change": change, "parity": None}
        )
        return Lowered(recalibrated(graph, manifest), manifest)

    @cached_property
    def _exact(self) -> tuple[Verdicts, np.ndarray]:
        """What the float32 graph says of the held-out images, and its scores of the OOD images."""
        guard = self._guard(self.graph)
        return guard.predict_batches(self._all()), guard.predict_batches(self._ood()).ood_score

    def _calibrated(self, guard: Guard, verdicts: Verdicts) -> Guard:
        """At the rate, and by class where float32 is; the temperature stays, for it is of the same logits."""
        was = self.manifest.calibration
        assert was is not None  # _held_out has seen it
        return guard.calibrate_by(
            verdicts,
            alpha=was.alpha,
            class_conditional=was.class_conditional,
            min_class_images=was.min_class_images or None,
        )

    def _finite(self, verdicts: Verdicts) -> Verdicts:
        if not np.isfinite(verdicts.ood_score).all() or not np.isfinite(verdicts.probabilities).all():
            other = "precision='bf16', whose range is float32's" if self.request.precision == "fp16" else "'fp32'"
            raise ExportError(f"the network's numbers overflow {self.request.precision}; export it with {other}")
        return verdicts

    def _right(self, verdicts: Verdicts) -> float:
        return float((verdicts.label == self.labels).mean())

    def _lost(self, found: Lowered) -> dict[str, str]:
        """What is lost beyond the budget, in words, by the option that allows it."""
        change, asked = found.manifest.precision_change, self.request
        assert change is not None  # _measured has written it
        most = may_be_lost(asked.max_accuracy_loss, change.images)
        losses = {
            "max_accuracy_loss": (change.accuracy, most, "accuracy"),
            "max_auroc_loss": (change.auroc, asked.max_auroc_loss, f"AUROC against {change.ood} images"),
        }
        lost = {
            option: f"{name} {pair[0]:.4f} -> {pair[1]:.4f} (allowed: {most:g} less)"
            for option, (pair, most, name) in losses.items()
            if pair is not None and pair[0] - pair[1] > most + 1e-9
        }
        if asked.max_flag_flips is not None and change.flag_flips > asked.max_flag_flips:
            flips = f"{change.flag_flips} of {change.images} images change their label or flag"
            lost["max_flag_flips"] = f"{flips} (allowed: {asked.max_flag_flips})"
        return lost

    def _within_budget(self, found: Lowered) -> Lowered:
        """Raises: ExportError: it is not."""
        change = found.manifest.precision_change
        assert change is not None  # _measured has written it
        if lost := self._lost(found):
            kept = f" with {len(change.layers_in_fp32)} of {change.layers} layers in float32" if change.layers else ""
            raise ExportError(
                f"{self.request.precision} loses too much{kept}: {', '.join(lost.values())}; raise "
                f"{' or '.join(lost)} only if you can live with that, or take another precision"
            )
        accuracy = "" if change.accuracy is None else "accuracy {:.4f} -> {:.4f}, ".format(*change.accuracy)
        log.info(
            "%s: %sAUROC against %s images %.4f -> %.4f, %d flag flips of %d images%s",
            self.request.precision,
            accuracy,
            change.ood,
            *change.auroc,
            change.flag_flips,
            change.images,
            f"; in float32: {', '.join(change.layers_in_fp32)}" if change.layers_in_fp32 else "",
        )
        return found

    @property
    def target(self) -> Any:
        """Whose integers: "auto" goes by the file."""
        by_file = "tensorrt" if self.request.path.suffix == ".engine" else "cpu"
        return by_file if self.request.target == "auto" else self.request.target

    def _guard(self, graph: bytes) -> Guard:
        return Guard(self.manifest, OnnxSession(graph, device="cpu", integers=self.target == "cpu"))

    def _all(self) -> Iterator[np.ndarray]:
        """The held-out images, a batch at a time: there may be more than memory holds."""
        return (batch for batch, _ in self.images.batches(BATCH))

    def _first(self, count: int) -> list[np.ndarray]:
        """Those that make `count`, in whole batches."""
        return [np.array(batch) for batch in itertools.islice(self._all(), -(-count // BATCH))]

    def _ood(self) -> Iterator[np.ndarray]:
        """Images that are none of the classes: those given, else what stands for them."""
        if self.far is not None:
            return (batch for batch, _ in self.far.batches(BATCH))
        return map(stand_ins, itertools.islice(self._all(), -(-STAND_INS // BATCH)), itertools.count())
