"""What cannot go with an augmentation that mixes the labels of two images (CutMix), refused before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.errors import ConfigError
from guard.heads import Head

from ..augmentations.base import Mixing, chain

if TYPE_CHECKING:
    from ..methods.base import Stage


def check_mixed_labels(augment: str, method: str, stage: Stage, head: Head | None) -> None:
    """Refuse a stage in which something other than the head's loss reads one label per image.

    Synthesisers of images see the images before they are mixed. Those of features see features of mixed images, and
    file them under a label.

    Raises:
        ConfigError: naming the part.
    """
    steps = chain(augment)
    if not steps or not issubclass(steps[-1], Mixing) or stage.trains == "nothing":
        return
    said = f"augment={augment!r} mixes the labels of two images; "
    others = augment.split("+")[:-1]
    instead = f"use another augmentation, such as {'+'.join(dict.fromkeys([*others, 'cutout']))!r}"
    if stage.head_loss and head is not None and head.moves:
        raise ConfigError(f"{said}head={head.name!r} moves with each label; use head='linear', or {instead}")
    synthesiser = stage.synthesiser
    if synthesiser is not None and synthesiser.space == "feature":
        raise ConfigError(f"{said}method {method!r} makes outliers of the features of each label; {instead}")
    if readers := [type(r).__name__ for r in stage.regularisers if r.reads_labels]:
        raise ConfigError(f"{said}{readers[0]} of method {method!r} reads one label per image; {instead}")
