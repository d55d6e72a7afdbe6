"""The same graph as BentoML's documentation writes a service: an image as the endpoint's argument, defaults else."""

from __future__ import annotations

import json
import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime as ort
from PIL.Image import Image

from guard.manifest import Preprocess
from guard.preprocess import to_input

GRAPH, PIXELS, THREADS, WORKERS = json.loads(os.environ.get("DEFAULT_SERVICE", '["", 32, 1, 1]'))


@bentoml.service(workers=WORKERS)
class Default:
    """One image, one run of the graph."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = ort.InferenceSession(GRAPH, options, providers=["CPUExecutionProvider"])
        self.config = Preprocess(height=PIXELS, width=PIXELS)

    @bentoml.api
    def predict(self, image: Image) -> dict[str, Any]:
        pixels = to_input(image, self.config)[np.newaxis]
        label, probabilities, score, is_ood = self.session.run(None, {"images": pixels})
        return {
            "label": int(label[0]),
            "probability": float(probabilities[0, label[0]]),
            "ood_score": float(score[0]),
            "is_ood": bool(is_ood[0]),
        }
