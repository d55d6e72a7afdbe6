"""Put a guard's torch module together: fresh from a configuration, or from a run folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from guard.detector import Guard
from guard.errors import ArtefactDamagedError, ConfigError, ModelError
from guard.graph.module import Classifier, FeatureClassifier, GuardModule, HookedClassifier
from guard.graph.onnx_classifier import OnnxClassifier
from guard.heads import create_head
from guard.manifest import Manifest, Normalisation
from guard.runtimes.torch_module import TorchModule
from guard.scores import Score, create_score

from ..backbones import create_backbone, takes_img_size

CUSTOM = "custom"  # the backbone name of a model that ood-guard cannot build by itself


def build_classifier(
    backbone: str,
    head: str,
    num_classes: int,
    *,
    in_chans: int,
    image_size: int,
    pretrained: bool = False,
    head_options: Mapping[str, Any] | None = None,
) -> Classifier:
    """A classifier with fresh (or published) weights."""
    network = create_backbone(backbone, in_chans=in_chans, image_size=image_size, pretrained=pretrained)
    return Classifier(network, create_head(head, network.num_features, num_classes, **head_options or {}))


def example_batch(manifest_like: Any, device: torch.device | str = "cpu", n: int = 2) -> torch.Tensor:
    """uint8 noise of the graph's input shape."""
    p = manifest_like
    generator = torch.Generator().manual_seed(0)
    shape = (n, p.height, p.width, p.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def guard_from_folder(manifest: Manifest, weights: bytes, *, device: str, model: Any = None) -> Guard:
    """The guard that `save_pretrained` wrote.

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
    return Guard(manifest, TorchModule(module, manifest.preprocess, device))


def misfit(error: RuntimeError) -> str:
    """The first thing that `load_state_dict` could not place, of the many it lists."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:200].rstrip(".")


def _classifier(manifest: Manifest, model: Any) -> FeatureClassifier:
    options = manifest.backbone_options
    if options.get("kind") == "onnx":
        if model is not None:
            raise ConfigError(f"this guard holds its classifier, the graph of {options['file']}; leave model= away")
        return OnnxClassifier.allocate(options)
    if options.get("kind") == "callables":
        from . import callables

        return callables.rebuilt(options, model)
    if options.get("kind") == "hugging_face":
        from . import hugging_face

        model = hugging_face.rebuilt(options) if model is None else hugging_face.LogitsOnly(model)
    size, channels = manifest.preprocess.height, manifest.preprocess.channels
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
    tapped = HookedClassifier(
        copy.deepcopy(model).float().eval().requires_grad_(False), options["layer"], options["tap"]
    )
    tapped.num_features = options["num_features"]
    return tapped


def timm_model(
    name: str, num_classes: int, in_chans: int, image_size: int, pretrained: bool = False
) -> torch.nn.Module:
    """A whole timm classifier by name; vision transformers get the image size."""
    import timm

    extra: dict[str, Any] = {"img_size": image_size} if takes_img_size(name) else {}
    return timm.create_model(name, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, **extra)


def _score(manifest: Manifest) -> Score:
    score = create_score(manifest.score, **manifest.score_options)
    score.allocate(manifest.score_shapes)
    return score


def score_shapes(score: Score) -> dict[str, tuple[int, ...]]:
    """Shapes of a score's state, for `Score.allocate`."""
    return {key: tuple(value.shape) for key, value in score.state_dict().items()}


def guard_module_normalisation(mean: Any, std: Any, channels: int) -> Normalisation:
    """Check what a user gave as mean and std: `channels` numbers each, std > 0, in units of [0, 1] pixels."""
    values = []
    for name, given in (("mean", mean), ("std", std)):
        numbers = tuple(float(v) for v in (given if hasattr(given, "__len__") else [given] * channels))
        if len(numbers) != channels:
            raise ConfigError(f"{name} needs {channels} numbers (one per channel), got {given!r}")
        values.append(numbers)
    if any(v <= 0 for v in values[1]):
        raise ConfigError(f"std must be above 0, got {std!r}")
    if any(v > 1.5 for v in values[0]):
        raise ConfigError(f"mean is in units of [0, 1] pixels, got {mean!r}; divide by 255")
    return Normalisation(mean=values[0], std=values[1])


def check_channels(in_chans: int) -> None:
    """Refuse anything but grey or colour."""
    if in_chans not in (1, 3):
        raise ConfigError(f"in_chans must be 3 (grey images are repeated) or 1 (colour becomes grey), got {in_chans!r}")
