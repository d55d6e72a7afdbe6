"""A running service behind the `guard.runtimes.Runtime` protocol, so that `guard.verify` can compare it with a file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..detector import Guard
from ..errors import ServiceError
from ..manifest import Manifest
from ..runtimes import Outputs, check_images
from .asking import Ask
from .blocking import Client

BATCH = 8  # images per request: few enough for every service
OUTPUTS = {"label": np.int64, "probabilities": np.float32, "ood_score": np.float32, "is_ood": np.bool_}


def served(client: Client, model: str | None = None) -> Guard:
    """The guard of a service: it decides there, by its own thresholds, whatever is asked for here.

    Args:
        model: which of a service that has several (GUARD_MODELS); default its first.
    """
    card = client.model(model)
    known = {name: card[name] for name in Manifest.model_fields if name in card}
    manifest = Manifest(**{**known, "calibration": None, "temperature": None, "exemplars": None})
    return Guard(manifest, ServedModel(client, card.get("served_as", model or "guard"), manifest))


class ServedModel:
    """Sends pixels by the Open Inference Protocol."""

    name = "service"

    def __init__(self, client: Client, model: str, manifest: Manifest) -> None:
        self.device = client._connection.where
        self._client, self._model = client, model
        p = manifest.preprocess
        self._shape = (p.height, p.width, p.channels)

    def run(self, images: np.ndarray, threshold: float | None = None, **_: np.ndarray) -> Outputs:
        """See `guard.runtimes`; the service's own threshold decides."""
        check_images(images, self._shape)
        parts = [self._asked(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return Outputs(*(np.concatenate([part[name] for part in parts]) for name in OUTPUTS))

    def _asked(self, images: np.ndarray) -> dict[str, np.ndarray]:
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
        head = json.dumps(
            {
                "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
                "outputs": [{"name": name} for name in OUTPUTS],
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        body = head + np.ascontiguousarray(images).tobytes()
        answer = self._client._json(
            Ask("POST", f"v2/models/{self._model}/infer", {"content": body, "headers": headers})
        )
        return _arrays(answer)


def _arrays(answer: Any) -> dict[str, np.ndarray]:
    try:
        found = {one["name"]: (one["data"], one["shape"]) for one in answer["outputs"]}
        return {name: np.array(found[name][0], dtype).reshape(found[name][1]) for name, dtype in OUTPUTS.items()}
    except (KeyError, TypeError, ValueError):
        raise ServiceError(f"the service did not answer with tensors but with {str(answer)[:100]!r}") from None
