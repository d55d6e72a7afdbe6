"""The classifiers that `guard.fit` takes, one file per kind; `open_classifier` tells them apart.

torch_models   any torch module; timm models, by name too
guards         the classifier inside a guard or a run folder
hugging_face   transformers' image classifiers, their folders and hub ids; image_processors reads their input
callables      two callables, (features, logits)
onnx_file      an ONNX file; onnx_read, onnx_input, onnx_adapt and onnx_head are its parts
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from guard.detector import Guard
from guard.errors import ConfigError, ModelError

from . import callables, hugging_face
from .base import GivenClassifier
from .guards import of_guard
from .torch_models import of_module, timm_by_name


def open_classifier(model: Any, a: dict[str, Any], data: Any) -> GivenClassifier:
    """The classifier `model` and the input it was made for.

    Args:
        model: what `guard.fit` was given.
        a: the other arguments of `guard.fit`, by name.
        data: its data; opened only where the size of the input cannot be known otherwise.

    Raises:
        ModelError: it is none of the accepted kinds, or cannot be guarded.
    """
    processor = None
    if isinstance(model, (str, Path)) and hugging_face.is_one(model):
        model, processor = hugging_face.from_folder_or_hub(model)
    if hugging_face.is_model(model):
        return hugging_face.of_hugging_face(model, a, data, processor)
    if a["processor"] is not None:
        raise ConfigError("processor= is for Hugging Face models; give image_size=, mean= and std= for others")
    if callables.is_two_callables(model):
        return callables.of_callables(model, a, data)
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        model = Guard.from_pretrained(model, device="cpu")
    if isinstance(model, Guard):
        return of_guard(model, a)
    if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
        from .onnx.file import of_onnx_file  # onnx takes a while to import

        return of_onnx_file(Path(model), a, data)
    if isinstance(model, (str, Path)):
        model = timm_by_name(str(model), a, data)
    if not isinstance(model, nn.Module):
        raise ModelError(
            "model must be a torch.nn.Module, a timm name, a Hugging Face model or its folder, an .onnx file, two "
            f"callables (features, logits), a Guard or a run folder, got {type(model).__name__}"
        )
    return of_module(model, a, data)


__all__ = ["GivenClassifier", "open_classifier"]
