"""A step of ``augment=``, and chains of steps: "crop+flip+pixmix+cutout"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.record import Registry

NONE = "none"
BEFORE = ("crop", "flip")  # an elaborate step alone


@dataclass(frozen=True)
class AugmentContext:
    """What a step may know of the training when it is made.

    Attributes:
        height, width, channels: of the images.
        mean: of each channel, in [0, 255]: what becomes 0 where the network normalises.
        seed: of what is drawn once for the whole training.
        device: of the images.
        pictures: uint8 (M, H', W', channels) that PixMix mixes in, an eighth larger than the images; None: drawn ones.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    seed: int
    device: torch.device
    pictures: Tensor | None = None


class Step:
    """What images go through in training, a batch at a time.

    A new one registers itself; its draws come from the generator alone, and nothing in it waits for the device.

    Attributes:
        name: how users call it.
        summary: what it does, as one sentence.
        source: the paper that it comes from.
        elaborate: whether its name alone stands for "crop+flip" and it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    elaborate: ClassVar[bool] = False

    def __init__(self, context: AugmentContext) -> None:
        self.context = context

    def joined(self, after: Step) -> Step | None:
        """One step that does this and then `after`, where that is less work; else None."""
        return None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (N, H, W, channels), N >= 1, of the same."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


class Mixed(NamedTuple):
    """Images of which each has a part of another one of the batch.

    images: uint8 (N, H, W, channels).
    partner: int64 (N,), the row of the other.
    weight: float (), the weight of an image's own label; that of its partner's is 1 - weight.
    """

    images: Tensor
    partner: Tensor
    weight: Tensor


class Mixing(Step):
    """A step that mixes images and their labels: the last of a chain, because their shares must not change any more."""

    def mixed(self, images: Tensor, generator: torch.Generator) -> Mixed:
        """uint8 (N, H, W, channels), N >= 1, mixed with each other."""
        raise NotImplementedError(f"{type(self).__name__} must define mixed")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.mixed(images, generator).images


STEPS: Registry[type[Step]] = Registry("augmentation", Step, "Several are joined by +: 'crop+flip+cutout'.")
register_step = STEPS.register
list_steps = STEPS.names
step_class = STEPS.get


def chain(augment: str) -> tuple[type[Step], ...]:
    """The steps of ``augment=``, in order; none for "none".

    Raises:
        UnknownNameError: a step that does not exist; near matches are named.
        ConfigError: one is named twice, or stands beside "none".
    """
    names = tuple(augment.split("+"))
    if names == (NONE,):
        return ()
    if NONE in names:
        raise ConfigError(f"augment={augment!r} joins 'none' with steps; give 'none' alone, or drop it")
    kinds = tuple(step_class(name) for name in names)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"augment={augment!r} names {twice[0]!r} twice; name it once")
    if early := [kind.name for kind in kinds[:-1] if issubclass(kind, Mixing)]:
        raise ConfigError(f"augment={augment!r}: {early[0]!r} mixes labels by area; name it last")
    if len(kinds) == 1 and kinds[0].elaborate:
        kinds = (*(step_class(name) for name in BEFORE), *kinds)
    return kinds


class Chain:
    """The steps of a training, ready to be applied one after the other.

    Attributes:
        steps: those that leave labels alone.
        mixing: the last, where it mixes labels; else None.
    """

    def __init__(self, augment: str, context: AugmentContext) -> None:
        steps = _joined(kind(context) for kind in chain(augment))
        self.mixing = last if steps and isinstance(last := steps[-1], Mixing) else None
        self.steps = [step for step in steps if step is not self.mixing]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (N, H, W, channels), N >= 0, through all steps but `mixing`; the same tensor where there are none."""
        if not len(images):
            return images
        for step in self.steps:
            images = step(images, generator)
        return images


def _joined(steps: Iterable[Step]) -> list[Step]:
    """Neighbours that can be one step are."""
    made: list[Step] = []
    for step in steps:
        both = made[-1].joined(step) if made else None
        if both is None:
            made.append(step)
        else:
            made[-1] = both
    return made
