"""What an encoder/generator pair is, and which there are by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from guard.errors import ConfigError, UnknownNameError

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
    """Which pair, and how the default one is trained.

    Attributes:
        pair: "style" (trained on the user's images), or a name given to `register_pair`.
        pair_folder: where the trained pair is kept, and class means of its latents. None: with the run or store that it
            is trained for. A pair that is found finished in a folder named here is used as it is, whatever the other
            options say, so that several methods and runs share one.
        pair_epochs: passes over the images. None: as many as show it at least 150,000 images.
        pair_batch: images per step.
        pair_lr: peak learning rate of Adam, divided by the root of each layer's fan-in; a cosine to zero.
        pair_width: channels at the generator's full resolution, doubled at each halving up to 4 x.
        pair_latent: d, the width of a style.
        pair_size: the generator's resolution, a power of two. None: the next one to the images' longer side, at most
            64; images of another size are resized.
        pair_adversarial: weight of the adversarial loss beside that of the pixels, in the second half of the training.
    """

    model: ClassVar = "pair"
    ours: ClassVar = "style"
    training: ClassVar = frozenset(
        {"pair_epochs", "pair_batch", "pair_lr", "pair_width", "pair_latent", "pair_size", "pair_adversarial"}
    )

    pair: str = "style"
    pair_folder: str | None = None
    pair_epochs: int | None = Field(default=None, ge=1)
    pair_batch: int = Field(default=32, ge=2)
    pair_lr: float = Field(default=1e-2, gt=0)
    pair_width: int = Field(default=32, ge=1)
    pair_latent: int = Field(default=128, ge=1)
    pair_size: int | None = Field(default=None, ge=8, le=1024)
    pair_adversarial: float = Field(default=0.02, ge=0)


PairFactory = Callable[[PrepareContext, PairOptions], Pair]

_PAIRS: dict[str, PairFactory] = {}


def register_pair(name: str, factory: PairFactory) -> None:
    """Make a pair of your own available as ``pair=name``; a second registration replaces the first.

    Args:
        factory: called when the images are there, with the `PrepareContext` (device, training images, a folder for
        what takes
            long, seed) and the options.

    Example::

        register_pair("mine", lambda context, options: MyPair(device=context.device))
        guard.train(data, method="dmr", pair="mine")
    """
    if name == "style" and "style" in _PAIRS:
        raise ConfigError("'style' is the pair that comes with ood-guard; register yours under another name")
    _PAIRS[name] = factory


def make_pair(context: PrepareContext, options: PairOptions) -> Pair:
    """The pair that `options` name, trained or loaded.

    Raises:
        UnknownNameError: no such pair.
        ConfigError: what the factory made has no `encode` or no `generate`.
    """
    from . import training  # noqa: F401  (registers "style")

    if options.pair not in _PAIRS:
        raise UnknownNameError("pair", options.pair, _PAIRS, "Add one with train.generators.register_pair.")
    pair = _PAIRS[options.pair](context, options)
    if not isinstance(pair, Pair):
        raise ConfigError(
            f"pair {options.pair!r} must have encode(images) -> w (N, L, d) and generate(w) -> images, "
            f"got a {type(pair).__name__}"
        )
    return pair
