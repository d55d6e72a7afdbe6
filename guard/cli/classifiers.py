"""What ``guard fit --model`` names: a timm model, a Hugging Face folder or hub id, an ONNX file, a run folder, or
``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from .._siblings import sibling
from ..errors import ConfigError, MissingDataError, MissingExtraError, ModelError, cut
from ..paths import path_given, unusable


def classifier(
    name: str,
    checkpoint: Path | None = None,
    *,
    in_chans: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Any:
    """The `model` argument of `guard.fit`.

    Args:
        name: a timm model name; a Hugging Face model's folder or hub id; an .onnx file; a run folder; or
            ``package.module:callable``, where calling it without arguments gives the classifier or the pair
            (features, logits) (the working directory is searched too).
        checkpoint: safetensors with the weights, for a timm model or a callable.
        in_chans, image_size: what a timm model with a checkpoint is built for; default its published ones.

    Raises:
        ConfigError: the module or callable is not there, or a checkpoint for what has weights.
        ModelError: the callable gives no torch module, or the checkpoint belongs to another architecture.
    """
    if unusable(name):
        raise ConfigError(f"--model {cut(name, 150)!r} {unusable(name)}")
    if Path(name).is_dir():
        if checkpoint is not None:
            raise ConfigError(f"the folder {name} brings its weights; drop --checkpoint")
        return name
    if Path(name).suffix.lower() == ".onnx":
        if checkpoint is not None:
            raise ConfigError(f"{name} is an ONNX file and brings its weights; drop --checkpoint")
        return name
    if ":" in name:
        model = _called(name)
        if checkpoint is not None and isinstance(model, tuple):
            raise ConfigError(f"{name} gave two callables, which bring their weights; drop --checkpoint")
        return model if checkpoint is None else _with_weights(model, _weights(checkpoint), name, checkpoint)
    return name if checkpoint is None else _timm_with_weights(name, checkpoint, in_chans, image_size)


def _called(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"--model {name}: {module_name!r} is not the name of a module; give package.module:callable")
    sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--model {name}: no module {error.name!r} here or among the installed packages; "
            "accepted: a timm name, a Hugging Face folder, an .onnx file, a run folder, or package.module:callable"
        ) from error
    finally:
        sys.path.pop(0)
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            inside = getattr(target, "__dict__", {}).items()
            public = [n for n, thing in inside if callable(thing) and n.isidentifier() and n[0] != "_"]
            raise ConfigError(
                f"--model {name}: {module_name} has no {attribute!r} to call; it has "
                f"{', '.join(public[:12]) or 'nothing'}"
            ) from None
    if not callable(target):
        raise ConfigError(f"--model {name}: {attribute} is {type(target).__name__}, not something to call")
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise ConfigError(f"--model {name}: {attribute} must be callable without arguments ({error})") from None
    except ValueError:  # a builtin without a signature
        pass
    model = target()
    pair = isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model)
    if not pair and not hasattr(model, "state_dict"):
        raise ModelError(f"--model {name} gave {type(model).__name__}; it must give a torch.nn.Module or two callables")
    return model


def _weights(checkpoint: Path) -> dict[str, Any]:
    checkpoint = path_given(checkpoint, "--checkpoint")
    if not checkpoint.is_file():
        raise MissingDataError(f"no such checkpoint: {checkpoint}")
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", "train") from error
    try:
        return load_file(checkpoint)
    except SafetensorError as error:
        raise ConfigError(
            f"{checkpoint} is not a safetensors file ({error}); pickled checkpoints are not read: "
            "convert it with safetensors.torch.save_file(state_dict, path)"
        ) from None


def _with_weights(model: Any, weights: dict[str, Any], name: str, checkpoint: Path) -> Any:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problems = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ModelError(f"{checkpoint} does not fit {name}: {problems}") from None
    return model


def _timm_with_weights(
    name: str, checkpoint: Path, in_chans: int | None, image_size: int | tuple[int, int] | None
) -> Any:
    """A timm model with as many classes as the checkpoint's last layer has rows; `guard.fit` checks other names."""
    try:
        import timm

        fresh = sibling("train.classifiers.fresh")
    except ImportError as error:
        raise MissingExtraError(f"{error.name}", "train") from error
    published = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if published is None:
        return name
    weights = _weights(checkpoint)
    layers = [published.classifier] if isinstance(published.classifier, str) else list(published.classifier or ())
    rows = next((len(weights[f"{layer}.weight"]) for layer in layers if f"{layer}.weight" in weights), None)
    if rows is None:
        raise ModelError(f"{checkpoint} does not fit {name}: it holds no weights of {' or '.join(layers)}")
    model = fresh.timm_model(name, rows, in_chans or 3, image_size or published.input_size[1:])
    return _with_weights(model, weights, name, checkpoint)
