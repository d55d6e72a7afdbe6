"""A network that is not trained at all, whose features teach another: taken once per image, and kept.

start         the network that training starts from: its published weights, or those of the run in ``init=``
folder or id  what ``pretrained=`` takes and names its architecture: timm's folder, a hub id; or a guard's folder

A network that was published for images of one size sees images of that size, as in `train.teacher`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from guard.artefact.files import FOLDER_MANIFEST
from guard.detector import Guard
from guard.errors import ConfigError, GuardError
from guard.graph.module import GuardModule
from guard.graph.outputs import Backbone, Classifier
from guard.heads import create_head
from guard.record import Record
from guard.scores import create_score

from .backbones import create_backbone, pretrained_normalisation, published_side
from .cache.keyed import digest, kept_path, named_model
from .cache.pieces import kept_chunks
from .classifiers.input import data_normalisation
from .engine.modes import evaluating
from .engine.precision import mixed_precision
from .outliers.base import PrepareContext
from .pretrained import checkpoint
from .teacher import Enlarged

if TYPE_CHECKING:
    from guard.data import ImageData

START = "start"
AT_ONCE, PIECE = 64, 2048  # images: in one pass, in one file


class _Kept(Record):
    """What the kept features depend on, beside the images: a network by its content."""

    teacher: str


class FrozenTeacher:
    """The features of a network as it is.

    Args:
        name: "start", a guard's folder, timm's folder or a hub id.
        has_start: whether training starts from a network that knows something, for "start".
    """

    def __init__(self, name: str, has_start: bool) -> None:
        self.name, self.has_start = name, has_start
        self._start: str | None = None  # which network training starts from, known before it is trained

    @property
    def is_start(self) -> bool:
        """Whether it is the network that training starts from."""
        return self.name == START

    def check(self, context: PrepareContext) -> None:
        """Refuse what can be known by now to fail.

        Raises:
            ConfigError: "start" where training starts from random weights; a file that does not say what network it is
                of; a network that cannot be built, or takes no images of this size.
            MissingDataError: neither a folder nor a hub id that can be had.
        """
        if self.is_start and not self.has_start:
            raise ConfigError(
                "teacher='start' is the network that training starts from, and this one starts from random weights; "
                "give pretrained= or init=, or name a teacher: timm's folder, a hub id, or a guard's folder"
            )
        if self.is_start:
            self._start = _identity(context.module)
            return
        p, module = context.data.preprocess, self._module(context)
        try:
            pooled_features(module, context.data.subset(np.arange(1)))
        except GuardError:
            raise
        except Exception as error:  # whatever a network raises about a shape
            raise ConfigError(
                f"teacher={self.name!r} takes no images of {p.height} x {p.width} x {p.channels} "
                f"({str(error)[:100]}); name another teacher, or load the images in its size with image_size="
            ) from error

    def features(self, context: PrepareContext) -> Tensor:
        """Pooled features (N, T) of the training images, not augmented, float32 on the CPU.

        They are kept in the context's folder, so that a resumed training has those of its beginning.

        Raises:
            ConfigError: a resumed training starts from another network than before.
        """
        folder = self._folder(context)
        module = context.module if self.is_start else None

        def make(number: int) -> dict[str, Tensor]:
            nonlocal module
            module = module or self._module(context)
            rows = np.arange(number * PIECE, min(len(context.data), (number + 1) * PIECE))
            return {"features": pooled_features(module, context.data.subset(rows))}

        count = -(-len(context.data) // PIECE)
        return kept_chunks(folder, count, make, "teacher's features")["features"]

    def _folder(self, context: PrepareContext) -> Path:
        """Where the features are kept, or will be."""

        def of(teacher: str) -> Path:
            return kept_path(context, "teacher-features", _Kept(teacher=teacher)).with_suffix("")

        if not self.is_start:
            return of(named_model(self.name))
        self._start = self._start or _identity(context.module)
        folder = of(f"{START} {self._start}")
        if not context.resumed or folder.is_dir():
            return folder
        if not (older := of(START)).is_dir():  # as runs of earlier versions kept them
            raise ConfigError(
                f"{context.folder} holds no features of the network that this training starts from, so the stopped one "
                "started from another; put that one back where init= or pretrained= names it, or train anew"
            )
        return older

    def _module(self, context: PrepareContext) -> GuardModule:
        folder = Path(self.name)
        if (folder / FOLDER_MANIFEST).is_file():
            return Guard.from_pretrained(folder, device=str(context.device)).module
        return published_teacher(self.name, context)


def _identity(module: GuardModule) -> str:
    """Which network gives the features, by what it holds in front of its head."""
    backbone = getattr(module.classifier, "backbone", None)
    return digest({"backbone": backbone, "normalisation": module.normalisation})


def published_teacher(name: str, context: PrepareContext) -> GuardModule:
    """A network with published weights, for the context's images.

    Raises:
        ConfigError: a file that does not say what network it is of; a network that cannot be built.
        MissingDataError: neither a folder nor a hub id that can be had.
    """
    found = checkpoint(name)
    if found.architecture is None:
        raise ConfigError(
            f"teacher={name!r} does not say which network it is of; give timm's folder "
            "(timm.models.save_for_hf(model, folder, safe_serialization=True)) or a hub id"
        )
    p = context.data.preprocess
    shown = max(p.height, p.width)
    side = published_side(found.architecture) or shown
    backbone: Backbone = create_backbone(found.architecture, in_chans=p.channels, image_size=side, pretrained=name)
    normalisation = pretrained_normalisation(backbone, p.channels) or data_normalisation(context.data)
    if side != shown:
        backbone = Enlarged(backbone, side)
    head = create_head("linear", backbone.num_features, 2)  # unread
    module = GuardModule(Classifier(backbone, head), create_score("energy"), normalisation)
    return module.to(context.device).eval().requires_grad_(False)


def pooled_features(module: GuardModule, images: ImageData) -> Tensor:
    """Pooled features (N, T), in front of the head, of images as they are; float32 on the CPU."""
    backbone = getattr(module.classifier, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError("a teacher is a network of guard.train, or timm's: this guard's classifier has no backbone")
    return _of(module, images, lambda shown: backbone.pool(backbone.forward_map(shown)))


def embedded_features(module: GuardModule, images: ImageData) -> Tensor:
    """Features (N, D) as scores see them, of images as they are; float32 on the CPU."""
    return _of(module, images, lambda shown: module.classifier(shown).features)


@torch.no_grad()
def _of(module: GuardModule, images: ImageData, features: Callable[[Tensor], Tensor]) -> Tensor:
    device = module.scale.device
    autocast, made = mixed_precision(device), []
    with evaluating(module), autocast():
        for batch, _ in images.batches(AT_ONCE):
            shown = module.normalise(torch.from_numpy(np.ascontiguousarray(batch)).to(device))
            made.append(features(shown).float().cpu())
    return torch.cat(made)
