"""Text features of captions. Source: FodFoM, Chen et al., ACM MM 2024.

    caption(x) from an image-to-text model;   f(x) = the text encoder's output at the end token of
    "This is a photo of <class> and <caption(x)>"

An image of f is made with "This is a high quality image of", at whose end token f stands. The published f is that
output times CLIP's projection, which is undone before decoding: a change of basis. Stable Diffusion has no projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from guard.errors import ConfigError

from ...cache.keyed import images_identity, keyed_path, model_identity, named_model
from ...cache.pieces import ALONE, Columns, kept_chunks
from ...engine.distributed import Processes
from ...generators.diffusion import Diffusion, DiffusionOptions
from ..base import PrepareContext
from ..transformers_models import published_model
from .encoder import Features

CAPTION = "This is a photo of {} and {}"
PROMPT = "This is a high quality image of"
AT_ONCE = 32
LONGEST = 20  # tokens of a caption


@runtime_checkable
class TextDiffusion(Protocol):
    """A diffusion model with a text encoder, whose features can stand at the end of a prompt."""

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Texts -> features (N, W), float32."""
        ...

    def sample_text(self, features: Tensor, text: str, generator: torch.Generator) -> Tensor:
        """Features (N, W) -> uint8 (N, H, W, channels) of a prompt `text` that ends in them."""
        ...


class Captioner:
    """An image-to-text model of transformers.

    Args:
        model: folder or hub id of one, with its processor.

    Raises:
        ConfigError: no such model can be loaded.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        self._processor, self._model = published_model(
            model, "AutoModelForImageTextToText", "captioner", "captioning model", "BLIP", device
        )
        self._device = device

    @torch.no_grad()
    def captions(self, images: Tensor) -> list[str]:
        """One for each of uint8 (N, H, W, 1 or 3), the likeliest word by word."""
        rgb = list(images.expand(-1, -1, -1, 3).cpu().numpy())
        given = self._processor(images=rgb, return_tensors="pt").to(self._device)
        tokens = self._model.generate(**given, max_new_tokens=LONGEST, do_sample=False)
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def captioned(diffusion: Diffusion, options: DiffusionOptions) -> TextDiffusion:
    """The diffusion model, where it can be told a text.

    Raises:
        ConfigError: it has no text encoder.
    """
    if not isinstance(diffusion, TextDiffusion):
        raise ConfigError(
            f"captioner= needs a diffusion model with a text encoder, and diffusion.model={options.model!r} has none; "
            "use 'stable-diffusion', or omit captioner="
        )
    return diffusion


def caption_features(
    context: PrepareContext, diffusion: Diffusion, options: DiffusionOptions, captioner: str, us: Processes = ALONE
) -> Features:
    """Features of all training images' captions, in their order; kept in the context's folder as they are made.

    Several processes that call this at once share the work (`us`).

    Raises:
        ConfigError: the diffusion model has no text encoder, or the captioner cannot be loaded.
    """
    model, data = captioned(diffusion, options), context.data
    assert data.labels is not None  # training images are labelled
    labels: np.ndarray = data.labels
    plain = [name.replace("_", " ") for name in data.class_names]
    called: list[str] = getattr(model, "class_words", lambda: plain)()  # which may be other words than their folders'
    identity = {
        "captioner": named_model(captioner),
        "model": model_identity(model),
        "classes": data.class_names,
        **images_identity(data),
    }
    folder = keyed_path(context.folder, "captions", identity, "")
    loaded: list[Captioner] = []  # when the first caption is missing

    def make(number: int) -> Columns:
        if not loaded:
            loaded.append(Captioner(captioner, context.device))
        rows = np.arange(number * AT_ONCE, min((number + 1) * AT_ONCE, len(data)))
        images = torch.from_numpy(np.ascontiguousarray(data.take(rows))).to(context.device)
        names = [called[c] for c in labels[rows]]
        texts = [CAPTION.format(name, said) for name, said in zip(names, loaded[0].captions(images), strict=True)]
        return {"features": model.text_features(texts)}

    found = kept_chunks(folder, -(-len(data) // AT_ONCE), make, "captions", us)
    return Features(found["features"].to(context.device), torch.from_numpy(labels.copy()).to(context.device))
