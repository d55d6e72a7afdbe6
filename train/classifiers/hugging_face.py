"""Hugging Face image classifiers (transformers' ``...ForImageClassification``): the model, its folder or its hub id.

    config.id2label   the class names, in the order of the logits
    image processor   the input: `Preprocess` and `Normalisation` (image_processors.py), or a refusal

transformers is imported only here, and only once such a model was given.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from guard.data.class_names import names_in_order
from guard.errors import ConfigError, MissingExtraError, ModelError
from guard.geometry import checked_size
from guard.requests import FitRequest

from ..pretrained import impatient
from .base import GivenClassifier
from .files import is_model_file
from .fresh import CUSTOM
from .image_processors import input_of
from .input import given_input
from .torch_models import of_module

log = logging.getLogger("ood_guard")

KIND = "hugging_face"  # in a manifest's backbone_options
_LEFT_OUT = ("id2label", "label2id", "architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype")


class LogitsOnly(nn.Module):
    """A Hugging Face classifier as others are: normalised images (N, channels, H, W) -> logits (N, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def wrapped(self) -> nn.Module:
        """What error messages name."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(pixel_values=x)
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"{type(self.model).__name__} answers with a {type(output).__name__} without logits; "
                "load it with AutoModelForImageClassification"
            )
        return logits


def is_model(model: Any) -> bool:
    """Whether this is one of transformers' models, found out without importing transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, nn.Module) and isinstance(model, transformers.PreTrainedModel)


def is_one(name: str | Path) -> bool:
    """Whether a path or name is a folder that transformers' `save_pretrained` wrote (a run folder of ours has no
    config.json), or can only be a hub id: ``user/name`` and no path here."""
    path = Path(name)
    if path.exists():
        return (path / "config.json").is_file()
    return re.fullmatch(r"[\w-]+/[\w.-]+", str(name)) is not None and not is_model_file(path)


def from_folder_or_hub(name: str | Path) -> tuple[nn.Module, Any]:
    """(model, image processor) of a folder, or of a hub id ``user/name``; the weights from safetensors only.

    Raises:
        ModelError: no safetensors, no image classifier, or no such name on a hub that can be reached.
        MissingExtraError: transformers is not installed.
    """
    transformers = _transformers()
    path = Path(name)
    if path.is_dir():
        _check_weights(path)
    try:
        with impatient(not path.is_dir()):
            model = transformers.AutoModelForImageClassification.from_pretrained(str(name), use_safetensors=True)
    except Exception as error:  # transformers raises OSError, ValueError and more, each with its own sentence
        where = f"the folder {name}" if path.is_dir() else f"{str(name)!r} (no folder here, so taken for a hub id)"
        raise ModelError(
            f"no image classifier can be loaded from {where}: {_first_sentence(error)}"
            f"{'' if path.is_dir() else '; without the hub, give the folder that model.save_pretrained(folder) wrote'}"
        ) from error
    with impatient(not path.is_dir()):
        return model, _own_processor(str(name), local=path.is_dir())


def untrained(name: str | Path) -> nn.Module:
    """The classifier of a folder or hub id with random weights: only its config.json is read.

    Raises:
        ModelError, MissingExtraError: as `from_folder_or_hub`.
    """
    transformers = _transformers()
    try:
        with impatient(not Path(name).is_dir()):
            config = transformers.AutoConfig.from_pretrained(str(name))
        model: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
        return model
    except Exception as error:
        raise ModelError(f"no image classifier can be built from {str(name)!r}: {_first_sentence(error)}") from error


def of_hugging_face(model: nn.Module, request: FitRequest, processor: Any = None) -> GivenClassifier:
    """The classifier with the input its image processor makes.

    The data is opened only where neither a processor nor image_size nor the config says the size.

    Args:
        model: a transformers model that answers with logits.
        processor: what lay beside the model. The request's (an image processor or the folder of one) comes first; an
            image_size, mean or std given instead of it leaves out what was found; `resize` and the like change it.

    Raises:
        ModelError: the processor does what a guard's preprocessing cannot; the message names the difference.
    """
    if hasattr(model, "timm_model"):
        raise ModelError(f"{type(model).__name__} wraps a timm model; give that: guard.fit(model.timm_model, ...)")
    config: Any = model.config
    own, given = given_input(request), request.processor
    replaced = any(name in own for name in ("image_size", "in_chans", "mean", "std"))
    if given is not None and own:
        raise ConfigError(
            f"the image processor says what the model's input is; omit {', '.join(own)}, or give no processor"
        )
    if isinstance(given, (str, Path)):
        given = _processor_from(given)
    if given is None and not replaced:
        given = processor or _own_processor(config._name_or_path)
    wrapped = LogitsOnly(model)
    side, channels = _side(getattr(config, "image_size", None)), getattr(config, "num_channels", 3)
    if given is None:
        if not replaced:
            log.warning("no image processor was given or found beside the %s; give processor=", type(model).__name__)
        base = of_module(wrapped, request, side=side, channels=channels)
        preprocess, normalisation, loaded = base.preprocess, base.normalisation, base.data
    else:
        preprocess, normalisation = input_of(given, channels, side)
        preprocess, loaded = request.applied(preprocess), None
        if request.channel_order is not None:
            normalisation = normalisation.model_copy(update={"channel_order": request.channel_order})
    return GivenClassifier(
        wrapped,
        preprocess,
        normalisation,
        type(model).__name__ if _public(type(model)) else CUSTOM,
        data=loaded,
        class_names=_class_names(config) if request.class_names is None else (),
        rebuild=_rebuild_options(model),
    )


def rebuilt(options: dict[str, Any]) -> LogitsOnly:
    """The architecture that `_rebuild_options` described, with random weights; nothing is downloaded.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the installed transformers does not have it.
    """
    transformers = _transformers()
    architecture, values = options["architecture"], dict(options["config"])
    kind = getattr(transformers, architecture, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ModelError(
            f"this guard wraps {architecture}, which transformers {transformers.__version__} does not have; "
            "pass the model: Guard.from_pretrained(folder, model=my_model)"
        )
    try:
        build_model: Any = kind  # mypy takes isinstance's word that it is any class
        config = build_model.config_class(**values, attn_implementation=options["attention"])
        return LogitsOnly(build_model(config))
    except Exception as error:
        raise ModelError(
            f"the installed transformers {transformers.__version__} cannot build this guard's {architecture} "
            f"({_first_sentence(error)}); pass it: Guard.from_pretrained(folder, model=my_model)"
        ) from error


def _rebuild_options(model: nn.Module) -> dict[str, Any]:
    """What `rebuilt` needs: the class and its whole configuration; labels and versions stay out of it."""
    config: Any = model.config
    values = json.loads(config.to_json_string(use_diff=False))
    for name in _LEFT_OUT:
        values.pop(name, None)
    built = getattr(model, "num_labels", None)  # of the last layer, where id2label was changed since
    values["num_labels"] = built if isinstance(built, int) else config.num_labels
    return {
        "kind": KIND,
        "architecture": type(model).__name__,
        "attention": config._attn_implementation,
        "config": values,
    }


def _public(kind: type) -> bool:
    """Whether transformers itself has this class; a user's own model cannot be rebuilt from its name."""
    return getattr(_transformers(), kind.__name__, None) is kind


def _class_names(config: Any) -> tuple[str, ...]:
    """id2label in the order of the logits, whatever its keys are; LABEL_0, LABEL_1, ... where nobody named them."""
    if not config.id2label:
        return ()
    return names_in_order(config.id2label, "the model's id2label", unique=False)


def _check_weights(folder: Path) -> None:
    found = sorted(p.name for p in folder.iterdir())
    if any(name.endswith(".safetensors") for name in found):
        return
    pickled = [name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when they are read; convert them where "
            "you trust them: AutoModelForImageClassification.from_pretrained(folder).save_pretrained(folder)"
        )
    raise ModelError(f"{folder} holds no model.safetensors (found: {', '.join(found[:8])})")


def _own_processor(name: str, local: bool = True) -> Any:
    """The image processor beside a model's weights: in its folder, or in (the local copy of) a hub repository."""
    if not name:
        return None
    try:
        return _transformers().AutoImageProcessor.from_pretrained(name, local_files_only=local)
    except Exception as error:  # none there: said by the caller
        log.debug("no image processor beside %s: %s", name, error)
        return None


def _processor_from(name: str | Path) -> Any:
    try:
        return _transformers().AutoImageProcessor.from_pretrained(str(name))
    except Exception as error:
        raise ConfigError(f"no image processor can be loaded from {str(name)!r}: {_first_sentence(error)}") from error


def _side(size: Any) -> int | tuple[int, int] | None:
    """config.image_size as one number, or (height, width) where they differ; None where it has none."""
    try:
        return None if size is None else checked_size(size)
    except ValueError:
        return None


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)'\"])\. ", text, maxsplit=1)[0].rstrip(".")[:300]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers (needed for Hugging Face models)", "hf") from error
    return transformers
