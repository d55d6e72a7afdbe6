"""What the service answers, as records. A number that is not finite (an uncalibrated threshold) is null in JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from guard.manifest import Calibration, Manifest
from guard.monitoring import DriftReport
from guard.verdict import Verdict


class Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(Schema):
    """POST /predict: the verdict on one image, and which weights gave it.

    Attributes:
        label, class_name, probability: the predicted class, 0 .. C-1, its name, its softmax probability in [0, 1].
        ood_score: higher = more out-of-distribution.
        threshold: flagged when ood_score is above it, that of the predicted class under a class-conditional
            calibration; null for an uncalibrated guard.
        is_ood: the flag.
        p_value: share of in-distribution images (of that class, likewise) at least this unusual, in (0, 1]; null for an
            uncalibrated guard.
        model: ``name@short-hash``.
    """

    label: int
    class_name: str
    probability: float
    ood_score: float
    threshold: float | None
    is_ood: bool
    p_value: float | None
    model: str

    @classmethod
    def of(cls, verdict: Verdict, model: str) -> Answer:
        return cls(**verdict.to_dict(), model=model)


class BatchAnswer(Schema):
    """POST /predict_batch: one answer per image, in the order sent."""

    verdicts: tuple[Answer, ...]


class ClassProbability(Schema):
    """A class and its softmax probability in [0, 1]."""

    label: int
    class_name: str
    probability: float


class PartPValue(Schema):
    """One part of a combined score, and the image's p-value in (0, 1] by that part alone."""

    score: str
    p_value: float


class Nearest(Schema):
    """An ordinary image that the artefact holds: class, JPEG, and cosine similarity in [-1, 1] to the image sent."""

    class_name: str
    jpeg_base64: str
    cosine: float


class Explained(Schema):
    """POST /explain: the verdict, and what is behind it.

    Attributes:
        answer: as of /predict.
        top: the likeliest classes, at most 5.
        parts: of a combined score, and nearest: ordinary images, most similar first; both empty unless the guard was
            exported with ``exemplars=``.
    """

    answer: Answer
    top: tuple[ClassProbability, ...]
    parts: tuple[PartPValue, ...]
    nearest: tuple[Nearest, ...]


class Error(Schema):
    """Every answer that is not 2xx."""

    error: str


class Histogram(Schema):
    """Calibration scores in equal bins: `counts[i]` lie in [edges[i], edges[i + 1]); the ends take the rest."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def histogram(calibration: Calibration, bins: int = 40) -> Histogram:
    """The calibration scores as a picture wants them: the range holds every threshold and 99 % of the scores, and the
    last bin on each side also counts what lies beyond."""
    scores = calibration.scores.astype(np.float64)
    low, high = np.quantile(scores, [0.005, 0.995])
    thresholds = [calibration.threshold, *calibration.class_thresholds.tolist()]
    low, high = min(low, *thresholds), max(high, *thresholds)
    margin = 0.02 * (high - low) or max(abs(high), 1.0) * 1e-3  # all scores equal: still a range
    edges = np.linspace(low - margin, high + margin, bins + 1)
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def model_card(manifest: Manifest, name: str) -> dict[str, object]:
    """GET /model: the manifest, its identity and the name that it is served under, with a small histogram in place of
    the calibration scores, the thresholds that the class offsets make, and the number of exemplars."""
    card = manifest.model_dump(mode="json", exclude={"exemplars"})
    card["exemplars"] = 0 if manifest.exemplars is None else len(manifest.exemplars.images)
    if manifest.calibration is not None:
        del card["calibration"]["scores_base64"], card["calibration"]["labels_base64"]
        card["calibration"]["class_thresholds"] = manifest.calibration.class_thresholds.tolist()
        card["calibration"]["histogram"] = histogram(manifest.calibration).model_dump(mode="json")
    return {"identity": manifest.identity, "served_as": name, **card}


def card_schema() -> dict[str, Any]:
    """The JSON Schema of `model_card`: the manifest's, changed as the card changes the manifest."""
    schema = Manifest.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
    calibration = schema["$defs"]["Calibration"]
    for hidden in ("scores_base64", "labels_base64"):
        del calibration["properties"][hidden]
        calibration["required"] = [name for name in calibration["required"] if name != hidden]
    calibration["properties"] |= {
        "class_thresholds": {"type": "array", "items": {"type": "number"}},
        "histogram": Histogram.model_json_schema(),
    }
    calibration["required"] += ["class_thresholds", "histogram"]
    text = {"type": "string"}
    schema["properties"] |= {"identity": text, "served_as": text, "exemplars": {"type": "integer", "minimum": 0}}
    schema["required"] = ["identity", "served_as", *schema.get("required", [])]
    found: dict[str, Any] = _inlined(schema, schema.pop("$defs"))
    return found


def drift_schema() -> dict[str, Any]:
    """The JSON Schema of GET /drift and of a reset: a `DriftReport`."""
    schema = DriftReport.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
    found: dict[str, Any] = _inlined(schema, schema.pop("$defs"))
    return found


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references, so that it can stand anywhere in a document; a tuple of equal items as a list of
    that length, which every tool understands."""
    if isinstance(schema, dict):
        first, *others = schema.get("prefixItems", [None])
        if first is not None and all(other == first for other in others):
            schema = {**{k: v for k, v in schema.items() if k != "prefixItems"}, "items": first}
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return _inlined({**definitions[name], **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema
