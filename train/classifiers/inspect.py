"""Open a classifier to ask what it shows, without any data: what `guard.list_scores(model=...)` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guard.detector import Guard
from guard.errors import DataError, GuardError, ModelError
from guard.graph.outputs import FeatureClassifier
from guard.requests import FitRequest

from ..features.extract import hook_features
from . import hugging_face
from .files import is_onnx
from .input import example_batch, first_channels, normalised
from .open import open_classifier

SIDES = (224, 64, 32)  # tried in turn on a model that does not say what it was made for


def open_without_data(model: Any) -> FeatureClassifier:
    """The classifier that `guard.fit` would guard, on the CPU.

    Noise of the size that the model was made for shows what it gives; where nothing says which that is, 224, 64 and 32
    pixels are tried. A timm name, and a Hugging Face folder or hub id, are built without their weights.

    Args:
        model: what `guard.fit` takes.

    Raises:
        GuardError: it is not a classifier that can be guarded; as `guard.fit` would say.
    """
    if isinstance(model, (str, Path)) and hugging_face.is_one(model):
        model = hugging_face.untrained(model)
    elif isinstance(model, str) and not Path(model).exists():
        model = _timm_without_weights(model)
    if isinstance(model, Guard) or (isinstance(model, (str, Path)) and Path(model).is_dir()):
        return _opened(FitRequest(model=model, data=None, device="cpu"))
    return _tried(model)


def _tried(model: Any) -> FeatureClassifier:
    """Opened at the size that it says, or else at one of `SIDES`."""
    first: GuardError | None = None
    for side in (None, *SIDES):
        try:
            return _opened(_request(model, side))
        except DataError:  # it does not say its size, and there is no data to find one in
            continue
        except GuardError as error:
            first = first or error
    if first is None:
        raise ModelError(f"nothing says what input {type(model).__name__} was made for")
    raise first


def _request(model: Any, side: int | None) -> FitRequest:
    """What `guard.fit` would be asked for."""
    if is_onnx(model):
        return FitRequest(model=model, data=None, device="cpu", image_size=side)
    half, channels = (0.5,) * 3, first_channels(model)  # normalised in whatever way, a model shows the same
    return FitRequest(model=model, data=None, device="cpu", image_size=side, in_chans=channels, mean=half, std=half)


def _opened(request: FitRequest) -> FeatureClassifier:
    if is_onnx(request.model):
        from .onnx.file import open_graph  # onnx takes a while to import

        return open_graph(Path(request.model), request).classifier
    given = open_classifier(request)
    if isinstance(given.model, FeatureClassifier):
        return given.model
    example = normalised(example_batch(given.preprocess), given.normalisation)
    return hook_features(given.model, example, given.layer, given.outputs or request.outputs)


def _timm_without_weights(name: str) -> Any:
    import timm

    return timm.create_model(name) if timm.is_model(name) else name
