"""Models of transformers that a synthesiser looks or reads with, by folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guard.errors import ConfigError, MissingExtraError

from ..pretrained import impatient


def published_model(
    model: str, auto_class: str, option: str, what: str, example: str, device: torch.device
) -> tuple[Any, Any]:
    """The processor and the frozen model in eval mode on `device`, from safetensors only.

    Args:
        model: folder or hub id. auto_class: the class of transformers that reads it.
        option, what, example: how the option, its kind of model and one that fits are called in an error.

    Raises:
        ConfigError: no such model can be loaded.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(f"transformers, which runs the {what},", "hf") from error
    try:
        with impatient(not Path(model).is_dir()):
            processor = transformers.AutoProcessor.from_pretrained(model)
            found: Any = getattr(transformers, auto_class).from_pretrained(model, use_safetensors=True)
    except Exception as error:  # transformers raises OSError, ValueError and more, each with its own sentence
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"no {what} can be loaded from {option}={model!r}: {said}; give the folder of one (a {example} with its "
            f"processor), or omit {option}="
        ) from error
    return processor, found.to(device).eval().requires_grad_(False)
