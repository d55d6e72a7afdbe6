"""Which kind of classifier `guard.fit` was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from guard.data.forms.names import folder_of_that_name
from guard.detector import Guard
from guard.errors import ConfigError, ModelError
from guard.requests import FitRequest

from ..features.copies import say_what_does_not_export, unwrapped
from . import callables, hugging_face
from .base import GivenClassifier
from .files import check_file, is_onnx
from .guards import of_guard
from .torch_models import of_module, timm_by_name


def open_classifier(request: FitRequest) -> GivenClassifier:
    """The classifier that was given and the input it was made for.

    The data is opened only where the size of the input cannot be known otherwise.

    Raises:
        ModelError: it is none of the accepted kinds, or cannot be guarded.
    """
    model: Any = request.model
    if isinstance(model, nn.Module):
        model = unwrapped(model)
    processor = None
    named = isinstance(model, str) and _is_timm_name(model)
    if isinstance(model, (str, Path)) and not named and hugging_face.is_one(model):
        model, processor = hugging_face.from_folder_or_hub(model)
    if hugging_face.is_model(model):
        return hugging_face.of_hugging_face(model, request, processor)
    if request.processor is not None:
        raise ConfigError("processor= is for Hugging Face models; give image_size=, mean= and std= for others")
    if callables.is_two_callables(model):
        return callables.of_callables(model, request)
    if is_onnx(model):
        from .onnx.file import of_onnx_file  # onnx takes a while to import

        return of_onnx_file(Path(model), request)
    if isinstance(model, (str, Path)):
        model = _by_name(model, request)
    if isinstance(model, Guard):
        return of_guard(model, request)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise ModelError(
            "model must be a torch.nn.Module, a timm name, a Hugging Face model or its folder, an .onnx file, two "
            f"callables (features, logits), a Guard or a run folder, got {type(model).__name__}"
        )
    say_what_does_not_export(model, kept=request.out is not None)
    return of_module(model, request)


def _by_name(model: str | Path, request: FitRequest) -> Guard | nn.Module:
    """timm's model of this name, which a folder of that name gives way to; else the guard in a folder."""
    if isinstance(model, str) and _is_timm_name(model):
        folder_of_that_name(model, "timm's model")
        return timm_by_name(model, request)
    check_file(Path(model))
    return Guard.from_pretrained(model, device="cpu") if Path(model).is_dir() else timm_by_name(str(model), request)


def _is_timm_name(text: str) -> bool:
    import timm

    return "/" not in text and timm.is_model(text)
