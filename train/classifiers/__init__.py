"""The classifiers that `guard.fit` takes, one file per kind; `open_classifier` tells them apart.

open              which kind it is
torch_models      any torch module; timm models, by name too
guards            the classifier inside a guard or a run folder
hugging_face      transformers' image classifiers, their folders and hub ids
image_processors  how those prepare their input
callables         two callables, (features, logits)
onnx              an ONNX file
base              what is known of any of them
input             channels, normalisation, noise of the input's shape
inspect           open one without data, to ask what it shows
fresh             classifiers by name, untrained or with published weights
rebuild           a guard's classifier from its run folder
"""

from __future__ import annotations

from .base import GivenClassifier
from .open import open_classifier

__all__ = ["GivenClassifier", "open_classifier"]
