"""Verdicts as output tensors: in the JSON, or as binary data behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from starlette.responses import Response

from guard.calibration.decision_rule import flagged
from guard.manifest import Manifest

from ..scored import Scored
from . import metadata
from .request import Inference
from .schemas import InferAnswer, OutputTensor
from .tensors import to_binary, to_json


def tensors(scored: Sequence[Scored], manifest: Manifest, threshold: float | None) -> dict[str, np.ndarray]:
    """The outputs by name; `threshold`, where it is given, decides in place of the guard's own, as in `Guard.predict`:
    the offsets of a class-conditional calibration are added to it."""
    found = {
        "label": np.array([v.label for v in scored], np.int64),
        "probabilities": np.stack([v.probabilities for v in scored]),
        "ood_score": np.array([v.ood_score for v in scored], np.float32),
        "is_ood": np.array([v.is_ood for v in scored], np.bool_),
        "p_value": np.array([v.p_value for v in scored], np.float64),
    }
    if threshold is not None:
        offsets = np.array(manifest.calibration.class_offsets if manifest.calibration else (), np.float32)
        limit = np.float32(threshold) + (offsets[found["label"]] if len(offsets) else np.float32(0))
        found["is_ood"] = flagged(found["ood_score"], limit)
    return found


def answer(asked: Inference, name: str, manifest: Manifest, arrays: dict[str, np.ndarray]) -> Response:
    """The outputs that were asked for, in that order."""
    declared = metadata.outputs(manifest)
    listed, behind = [], []
    for wanted in asked.outputs:
        array, datatype = arrays[wanted.name], declared[wanted.name].datatype
        data = to_binary(array, datatype) if wanted.binary else b""
        behind.append(data)
        listed.append(
            OutputTensor.model_construct(
                name=wanted.name,
                datatype=datatype,
                shape=array.shape,
                **({"parameters": {"binary_data_size": len(data)}} if wanted.binary else {"data": to_json(array)}),
            )
        )
    record = InferAnswer.model_construct(
        model_name=name, model_version=metadata.version(manifest), id=asked.id, outputs=tuple(listed)
    )
    text = record.model_dump_json(exclude_none=True).encode()
    if not any(wanted.binary for wanted in asked.outputs):
        return Response(text, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Response(b"".join([text, *behind]), headers=headers, media_type="application/octet-stream")
