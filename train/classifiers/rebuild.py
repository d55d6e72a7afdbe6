"""Put a guard's torch module together: fresh from a configuration, or from a run folder."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from guard.errors import ArtefactDamagedError, ConfigError, ModelError
from guard.geometry import size_of
from guard.graph.answers import Reading
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.outputs import FeatureClassifier, HookedClassifier
from guard.manifest import Manifest
from guard.runtimes.torch_module import TorchModule
from guard.scores import Score, create_score

from ..features.copies import own_copy
from . import callables, hugging_face
from .fresh import CUSTOM, build_classifier, timm_model


def runtime_from_folder(manifest: Manifest, weights: bytes, *, device: str, model: Any = None) -> TorchModule:
    """What the guard that `save_pretrained` wrote runs on.

    Raises:
        ModelError: the architecture is one ood-guard cannot build by name, and `model` was not given or does not fit.
    """
    options = manifest.backbone_options
    classifier = _classifier(manifest, model)
    score = _score(manifest)
    module = GuardModule(classifier, score, manifest.normalisation)
    try:
        state = load(weights)
    except SafetensorError as error:
        raise ArtefactDamagedError(f"the guard's weights are not readable safetensors ({error})") from None
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        what = options.get("architecture", manifest.backbone) if model is None else type(model).__name__
        raise ModelError(f"the weights do not fit the architecture {what!r}: {misfit(error)}") from None
    return TorchModule(module, manifest.preprocess, device)


def misfit(error: RuntimeError) -> str:
    """The first thing that `load_state_dict` could not place, of the many it lists."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:200].rstrip(".")


def _classifier(manifest: Manifest, model: Any) -> FeatureClassifier:
    options = manifest.backbone_options
    if options.get("kind") == "onnx":
        if model is not None:
            raise ConfigError(f"this guard holds its classifier, the graph of {options['file']}; omit model=")
        return OnnxClassifier.allocate(options)
    if options.get("kind") == "callables":
        return callables.rebuilt(options, model)
    if options.get("kind") == "hugging_face":
        model = hugging_face.rebuilt(options) if model is None else hugging_face.LogitsOnly(model)
    size, channels = size_of(manifest.preprocess), manifest.preprocess.channels
    if "layer" not in options:
        if model is not None:
            raise ConfigError("model= is for guards made by guard.fit; this one was trained by ood-guard")
        classes = len(manifest.class_names)
        return build_classifier(
            manifest.backbone,
            manifest.head,
            classes,
            in_chans=channels,
            image_size=size,
            head_options=manifest.head_options,
        )
    if model is None:
        if manifest.backbone == CUSTOM:
            raise ModelError(
                f"this guard wraps a model ({options.get('architecture', 'torch module')}) that cannot be rebuilt by "
                "name; pass it: Guard.from_pretrained(folder, model=my_model), or load the exported .onnx file"
            )
        model = timm_model(manifest.backbone, len(manifest.class_names), channels, size)
    hooked = HookedClassifier(own_copy(model), options["layer"], options["tap"], Reading.of_options(options))
    hooked.num_features = options["num_features"]
    return hooked


def _score(manifest: Manifest) -> Score:
    score = create_score(manifest.score, **manifest.score_options)
    score.allocate(manifest.score_shapes)
    return score


def score_shapes(score: Score) -> dict[str, tuple[int, ...]]:
    """Shapes of a score's state, for `Score.allocate`."""
    return {key: tuple(value.shape) for key, value in score.state_dict().items()}
