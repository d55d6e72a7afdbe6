"""Open a classifier to ask what it shows, without any data: what `guard.list_scores(model=...)` does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from guard.detector import Guard
from guard.errors import DataError, GuardError, ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import FeatureClassifier
from guard.manifest import Normalisation

from ..features.extract import hook_features
from . import hugging_face, open_classifier
from .input import example_batch

SIDES = (224, 64, 32)  # tried in turn on a model that does not say what it was made for


def open_without_data(model: Any) -> FeatureClassifier:
    """The classifier that `guard.fit` would guard, on the CPU.

    Noise of the size that the model was made for shows what it gives; where nothing says which that is, 224, 64 and 32
    pixels are tried. A timm name, and a Hugging Face folder or hub id, are built without their weights.

    Args:
        model: what `guard.fit` takes.

    Raises:
        GuardError: it is no classifier that can be guarded; as `guard.fit` would say.
    """
    if isinstance(model, (str, Path)) and hugging_face.is_one(model):
        model = hugging_face.untrained(model)
    elif isinstance(model, str) and not Path(model).exists():
        model = _timm_without_weights(model)
    if isinstance(model, Guard) or (isinstance(model, (str, Path)) and Path(model).is_dir()):
        return _opened(model, None, own_input=True)
    first: GuardError | None = None
    for side in (None, *SIDES):
        try:
            return _opened(model, side)
        except DataError:  # it does not say its size, and there is no data to find one in
            continue
        except GuardError as error:
            first = first or error
    if first is None:
        raise ModelError(f"nothing says what input {type(model).__name__} was made for")
    raise first


def _opened(model: Any, side: int | None, own_input: bool = False) -> FeatureClassifier:
    from guard.api import fit

    arguments = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    arguments |= {"device": "cpu", "image_size": side}
    if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
        from .onnx.file import open_graph  # onnx takes a while to import

        return open_graph(Path(model), arguments, None).classifier
    if not own_input:  # these numbers change nothing here
        arguments |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "in_chans": _channels(model)}
    if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
        from .onnx.file import open_graph  # onnx takes a while to import

        return open_graph(Path(model), arguments | {"mean": None, "std": None, "in_chans": None}, None).classifier
    base = open_classifier(model, arguments, None)
    if isinstance(base.model, FeatureClassifier):
        return base.model
    plain = Normalisation(mean=(0.5,) * base.preprocess.channels, std=(0.5,) * base.preprocess.channels)
    probe = GuardModule(nn.Module(), None, plain)  # type: ignore[arg-type]  # only normalises
    return hook_features(base.model, probe.normalise(example_batch(base.preprocess)), base.layer)


def _channels(model: Any) -> int | None:
    """What its first convolution takes; None, which becomes 3, where there is none."""
    parts = model if isinstance(model, (tuple, list)) else (model,)
    modules = (m for part in parts if isinstance(part, nn.Module) for m in part.modules())
    return next((m.in_channels for m in modules if isinstance(m, nn.Conv2d)), None)


def _timm_without_weights(name: str) -> Any:
    import timm

    return timm.create_model(name) if timm.is_model(name) else name
