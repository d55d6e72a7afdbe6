"""Which layers of a network a score reads where the user names none: the ends of its stages.

A forward pass of two images tells what runs. A *block* is the outermost composite member of a Sequential or ModuleList
(a BasicBlock, a WideBlock, a transformer's layer, a ConvNeXt stage); of consecutive blocks whose maps have one shape
the last is taken. That gives layer1 .. layer4 of a ResNet and the three groups of a WRN by their last blocks. Where all
maps have one shape (a ViT), `EVENLY` blocks at equal distances are taken, the last one included. A network without
blocks (a VGG, a handful of convolutions) is read at the last module of each shape, of those least deep inside it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from guard.errors import ModelError
from guard.graph.layer_maps import summarised, watching
from guard.graph.module import GuardModule

EVENLY = 4
AT_MOST = 12
_LISTS = (nn.Sequential, nn.ModuleList)


class Seen(NamedTuple):
    """A module that ran, and the shape of its output without the batch."""

    name: str
    shape: tuple[int, ...]


def watch_layers(module: GuardModule, images: Tensor) -> None:
    """Tell a score that needs "layer maps" which modules it reads (its own `layers` if the user gave them).

    Args:
        images: a batch of uint8 images (n, H, W, channels).

    Raises:
        UnknownNameError: a layer the user named is none of the classifier's.
        ModelError: the classifier has no layers whose output is a map.
    """
    score, root = module.score, module.classifier.layer_root()
    module.eval()
    with torch.inference_mode():
        x = module.normalise(images)
        names = score.layers
        if not names:
            names = score.choose(tuple(seen.name for seen in stage_ends(root, _run(module, x))))
            if not names:
                raise ModelError(
                    f"score {score.name!r} reads intermediate maps, (N, c, h, w) or (N, L, c), and no module of "
                    f"{type(root).__name__} gives one; name modules with layers="
                )
        _, summaries = summarised(module.classifier, x, score, names)
        score.watch(names, [summary.shape[1] for summary in summaries])


def stage_ends(root: nn.Module, ran: list[Seen]) -> list[Seen]:
    """The layers to read, of the modules that ran (in the order in which they were done)."""
    blocks = _blocks(root)
    found = [seen for seen in ran if seen.name in blocks]
    ends = _last_of_each_shape(found)
    if len(ends) == 1 < len(found):
        count = min(EVENLY, len(found))
        return [found[len(found) * (i + 1) // count - 1] for i in range(count)]
    if 1 < len(ends) <= AT_MOST:  # more are the branches inside something larger (GoogLeNet)
        return ends
    for depth in sorted({seen.name.count(".") for seen in ran}):
        ends = _last_of_each_shape([seen for seen in ran if seen.name.count(".") == depth])
        if len(ends) > 2:
            return ends[-AT_MOST:]
    return _last_of_each_shape(ran)[-AT_MOST:]


def _last_of_each_shape(ran: list[Seen]) -> list[Seen]:
    return [seen for seen, after in pairwise([*ran, Seen("", ())]) if seen.shape != after.shape]


def _blocks(root: nn.Module) -> set[str]:
    """Names of the outermost composite members of lists."""
    found: set[str] = set()

    def search(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            own = sum(1 for part in child.modules() if next(part.parameters(recurse=False), None) is not None)
            if isinstance(module, _LISTS) and not isinstance(child, _LISTS) and own > 1 and any(child.children()):
                found.add(name)
            else:
                search(child, name + ".")

    search(root, "")
    return found


def _run(module: GuardModule, x: Tensor) -> list[Seen]:
    """What ran and gave a map, in the order in which it was done; a module that runs often counts once, at its last."""
    seen: dict[str, Seen] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(x):
            seen.pop(name, None)
            seen[name] = Seen(name, tuple(output.shape[1:]))

    root = module.classifier.layer_root()
    with watching(root, [name for name, _ in root.named_modules() if name], note):
        module.classifier(x)
    return list(seen.values())
