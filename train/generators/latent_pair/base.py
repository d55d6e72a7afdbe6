"""What an encoder/generator pair is, and which there are by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from pydantic import field_validator
from torch import Tensor

from guard.errors import ConfigError, UnknownNameError
from guard.record import option

from ...cache.shared_model import SharedOptions
from ...outliers.base import PrepareContext


@runtime_checkable
class Pair(Protocol):
    """Images to latents and back. L vectors of width d describe an image, one per layer of the generator (W+).

    Both methods take and give tensors on the device of the training and keep no gradients.
    """

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) -> w (N, L, d), float32."""
        ...

    def generate(self, w: Tensor) -> Tensor:
        """w (N, L, d), any float32 -> uint8 (N, H, W, channels), of the size that `encode` was given."""
        ...


@runtime_checkable
class SamplingPair(Pair, Protocol):
    """A pair that also draws latents by itself, as the official code of DMR does in place of encoding."""

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One random w (N, L, d) for each class of labels (N,)."""
        ...


class PairOptions(SharedOptions):
    """Which pair, and how the default one is trained."""

    kind: ClassVar = "pair"
    ours: ClassVar = "style"
    training: ClassVar = frozenset({"epochs", "batch_size", "lr", "width", "latent", "size", "adversarial"})

    model: str = option(
        "style", "The pair: style, trained on your images; a name given to register_pair; or package.module:factory."
    )
    path: str | None = option(
        None, "File or folder that a factory of yours reads (the generator's weights).", unread_if={"model": "style"}
    )
    folder: str | None = option(
        None,
        "Where the trained pair and its class means are kept, to be shared by runs; default with the run.",
        common=True,
    )
    epochs: int | None = option(
        None, "Passes over the images; default as many as show it at least 150,000.", common=True, ge=1
    )
    batch_size: int = option(32, "Images per step.", ge=2)
    lr: float = option(
        1e-2, "Peak learning rate of Adam, divided by the root of each layer's fan-in; a cosine to zero.", gt=0
    )
    width: int = option(
        32, "Channels at the generator's full resolution, doubled at each halving up to four times.", ge=1
    )
    latent: int = option(128, "Width of a style.", ge=1)
    size: int | None = option(
        None,
        "Resolution of the generator, a power of two; default the next one to the images' longer side, at most 64.",
        ge=8,
        le=1024,
    )
    adversarial: float = option(
        0.02, "Weight of the adversarial loss beside that of the pixels, in the second half of the training.", ge=0
    )

    @field_validator("model")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name != cls.ours and name not in _PAIRS and ":" not in name:
            hint = (
                "Add one with train.generators.latent_pair.register_pair, or name a factory, package.module:callable."
            )
            raise UnknownNameError("pair", name, (cls.ours, *_PAIRS), hint)
        return name

    @field_validator("path")
    @classmethod
    def _is_there(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).exists():
            raise ValueError("no such file or folder")
        return path

    @field_validator("size")
    @classmethod
    def _power_of_two(cls, size: int | None) -> int | None:
        if size is not None and size & (size - 1):
            raise ValueError(f"must be a power of two; use {1 << (size.bit_length() - 1)}")
        return size


PairFactory = Callable[[PrepareContext, PairOptions], Pair]

_PAIRS: dict[str, PairFactory] = {}


def register_pair(name: str, factory: PairFactory) -> None:
    """Make a pair of your own available as ``pair={"model": name}``; a second registration replaces the first.

    Args:
        factory: called when the images are there, with the `PrepareContext` (device, training images, a folder for what
            takes long, seed) and the options. Class means of latents are kept under the pair's weights: those of a
            network, or of the networks and tensors among its attributes. One of which more counts says itself which it
            is, by an attribute `identity`, a text.

    Example::

        register_pair("mine", lambda context, options: MyPair(device=context.device))
        guard.train(data, method="dmr", pair="mine")
    """
    if name == "style":
        raise ConfigError("'style' is the pair that comes with ood-guard; register yours under another name")
    if ":" in name:
        raise ConfigError(f"a pair's name has no colon, which names a factory (package.module:callable), got {name!r}")
    _PAIRS[name] = factory
