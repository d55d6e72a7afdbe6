"""A network that teaches the one being trained: by backbone name, trained on the same images first, or a guard.

A teacher trained here is a plain classifier: `train.engine.stages` trains it, in a folder of its own under
`PrepareContext.folder`.
There a killed training goes on, and a finished teacher is loaded. It is in no checkpoint of the student.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.module import GuardModule, Outputs
from guard.manifest import Preprocess
from guard.record import Record
from guard.scores import create_score

from .backbones import check_backbone, pretrained_normalisation
from .cache.keyed import Schedule, kept_path, seeded
from .classifiers.rebuild import build_classifier
from .engine.loader import Feed
from .engine.stages import mixed_precision, train_stages
from .methods.base import Stage
from .outliers.base import PrepareContext
from .runs.request import TrainConfig

SMALL_IMAGE = 64  # pixels; up to here the teacher by default is a small-image net


class TeacherOptions(Record):
    """Who teaches, and how it learned.

    Attributes:
        teacher: a backbone's name, ours or timm's, or the folder of a guard for the same classes. "auto": wrn40_2 for
            images of at most 64 pixels, else resnet34: larger than what guard.train chooses for the student.
        teacher_pretrained: start it from timm's published weights, where they can be reached.
        teacher_epochs: passes over the images that it is trained for; None: as many as the student's first stage.
        teacher_lr: peak learning rate of that; None: 0.1, or 0.01 from published weights.
        teacher_augment: of its training images.
    """

    teacher: str = "auto"
    teacher_pretrained: bool = False
    teacher_epochs: int | None = Field(default=None, ge=1)
    teacher_lr: float | None = Field(default=None, gt=0)
    teacher_augment: Literal["none", "crop", "crop+flip"] = "crop"

    @field_validator("teacher")
    @classmethod
    def _is_one(cls, name: str) -> str:
        if name != "auto" and not Path(name).is_dir():
            check_teacher(name)
        return name


class Teacher:
    """A frozen classifier that answers without gradients.

    Attributes:
        width: of its features.
        identity: says which teacher it is, for the names of what is made with it.
    """

    def __init__(self, module: GuardModule, identity: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.width: int = module.classifier.num_features
        self.identity = identity
        self._autocast = mixed_precision(module.scale.device)

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Outputs:
        """Features (N, width) and logits (N, C), float32, of uint8 images (N, H, W, channels)."""
        with self._autocast():
            outputs = self.module.outputs(images)
        return Outputs(outputs.features.float(), outputs.logits.float(), None)


class TeacherSource:
    """The teacher that `options` name, made when first asked for.

    Args:
        epochs, batch_size: of the student's first stage; the teacher's, too, unless the options say otherwise.
    """

    def __init__(self, options: TeacherOptions, epochs: int, batch_size: int) -> None:
        self.options = options
        self.epochs = options.teacher_epochs or epochs
        self.batch_size = batch_size
        self._made: Teacher | None = None

    def __call__(self, context: PrepareContext) -> Teacher:
        if self._made is None:
            given = Path(self.options.teacher)
            self._made = given_teacher(given, context) if given.is_dir() else self._trained(context)
        return self._made

    def _trained(self, context: PrepareContext) -> Teacher:
        o, p = self.options, context.data.preprocess
        side = max(p.height, p.width)
        backbone = o.teacher
        if backbone == "auto":
            backbone = "wrn40_2" if side <= SMALL_IMAGE else "resnet34"
        options = o.model_copy(update={"teacher": backbone})
        path = kept_path(context, "teacher", options, Schedule(epochs=self.epochs, batch_size=self.batch_size))
        folder = path.with_suffix("")
        lr = o.teacher_lr or (0.01 if o.teacher_pretrained else 0.1)
        config = TrainConfig(
            method="teacher",
            backbone=backbone,
            head="linear",
            score="energy",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=lr,
            seed=context.seed,
            image_size=side,
            in_chans=1 if p.channels == 1 else 3,
            pretrained=o.teacher_pretrained,
            augment=o.teacher_augment,
            calibration=0,
            test=0,
            data_fingerprint=context.data.fingerprint,
        )
        module = fresh_teacher(config, context)
        folder.mkdir(parents=True, exist_ok=True)
        stages = [Stage("teacher", self.epochs, lr)]
        train_stages(module, Feed(context.data), stages, config, device=context.device, out=folder, resume=True)
        return Teacher(module, folder.name)


def check_teacher(name: str) -> None:
    """Raises UnknownNameError for what is no backbone's name, ConfigError where it looks like a folder."""
    if "/" in name or "\\" in name:
        raise ConfigError(f"teacher={name!r} is no folder; give a run folder of guard.train or a backbone's name")
    check_backbone(name)


def fresh_teacher(config: TrainConfig, context: PrepareContext) -> GuardModule:
    """An untrained classifier of the context's classes with a linear head, or one with published weights below it."""
    from .runs.train import data_normalisation  # it imports the methods

    with seeded(context.seed):
        classifier = build_classifier(
            config.backbone,
            config.head,
            len(context.data.class_names),
            in_chans=config.in_chans,
            image_size=config.image_size,
            pretrained=config.pretrained,
        )
    published = pretrained_normalisation(classifier.backbone, config.in_chans) if config.pretrained else None
    classifier = classifier.to(memory_format=torch.channels_last)
    module = GuardModule(classifier, create_score(config.score), published or data_normalisation(context.data))
    return module.to(context.device)


def given_teacher(folder: Path, context: PrepareContext) -> Teacher:
    """The guard in `folder`.

    Raises:
        ConfigError: it knows other classes, or looks at images of another size.
    """
    guard = Guard.from_pretrained(folder, device=str(context.device))
    mine, data = guard.manifest, context.data
    if mine.class_names != data.class_names:
        raise ConfigError(
            f"teacher={str(folder)!r} knows the classes {_few(mine.class_names)}, the images are of "
            f"{_few(data.class_names)}; train one on these images, or name a backbone"
        )
    if _form(mine.preprocess) != _form(data.preprocess):
        raise ConfigError(
            f"teacher={str(folder)!r} takes images of {_form(mine.preprocess)}, these are {_form(data.preprocess)}; "
            "load them in its size with image_size=, or name a backbone"
        )
    return Teacher(guard.module, mine.weights_sha256)


def _form(p: Preprocess) -> str:
    return f"{p.height} x {p.width} x {p.channels}"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" ... ({len(names)})" if len(names) > 5 else "")
