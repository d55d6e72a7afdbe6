"""A network that teaches the one being trained: by backbone name, trained on the same images first, or a guard.

A teacher trained here is a plain classifier: `train.engine.stages` trains it, in a folder of its own under
`PrepareContext.folder`.
There a killed training resumes, and a finished teacher is loaded. It is in no checkpoint of the student.

A network that was published for images of one size (vision transformers: their grid of patches is learned) sees images
of that size: of 32 pixels, patches of 16 would leave it four. They are enlarged in front of it, after augmentation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import Backbone, Outputs
from guard.manifest import Preprocess
from guard.record import Record, option
from guard.scores import create_score

from .backbones import automatic_teacher, check_backbone, published_side
from .cache.keyed import kept_path
from .cache.trained_network import Schedule
from .classifiers.fresh import fresh_classifier
from .classifiers.input import example_batch
from .engine.divided import divided
from .engine.loader import Feed
from .engine.precision import mixed_precision
from .engine.seeds import seeded
from .engine.stages import train_stages
from .methods.base import Stage
from .outliers.base import PrepareContext
from .runs.request import TrainConfig


class TeacherOptions(Record):
    """Who teaches, and how it learned; a plain string is its `model`."""

    model: str = option(
        "auto",
        "A backbone's name, ours or timm's, or the folder of a guard for the same classes; auto is wrn40_2 up to "
        "64 pixels and resnet34 above, larger than what guard.train chooses for the student.",
        common=True,
    )
    pretrained: bool = option(False, "Start it from timm's published weights, where they can be reached.")
    epochs: int | None = option(
        None, "Passes over the images that it is trained for; default as many as the student's first stage.", ge=1
    )
    lr: float | None = option(None, "Its peak learning rate; default 0.1, or 0.01 from published weights.", gt=0)
    augment: Literal["none", "crop", "crop+flip"] = option("crop", "How its training images are varied.")
    image_size: int | None = option(
        None,
        "Side in pixels that images are resized to in front of it; default the size that a vision transformer was "
        "published for, and for others the images' own.",
        ge=8,
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given

    @field_validator("model")
    @classmethod
    def _is_one(cls, name: str) -> str:
        if name != "auto" and not Path(name).is_dir():
            check_teacher(name)
        return name

    @model_validator(mode="after")
    def _only_a_backbone_is_trained(self) -> Self:
        unread = [name for name in sorted(self.model_fields_set) if name != "model"]
        if self.is_guard and unread:
            raise ValueError(f"the guard in {self.model!r} is trained already; omit {', '.join(unread)}")
        return self

    @property
    def is_guard(self) -> bool:
        """Whether a trained guard teaches, and not a network to be trained."""
        return self.model != "auto" and Path(self.model).is_dir()


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
            outputs = divided(lambda rows: self.module.outputs(rows)._replace(feature_map=None), images)
        return Outputs(outputs.features.float(), outputs.logits.float(), None)


class TeacherSource:
    """The teacher that `options` name, made when first asked for.

    Args:
        epochs, batch_size: of the student's first stage; the teacher's, too, unless the options say otherwise.
    """

    def __init__(self, options: TeacherOptions, epochs: int, batch_size: int) -> None:
        self.options = options
        self.epochs = options.epochs or epochs
        self.batch_size = batch_size
        self._made: Teacher | None = None
        self._width: int | None = None

    def check(self, context: PrepareContext) -> int:
        """The width of its features, known before anything is trained.

        Raises:
            ConfigError: a guard for other classes or images; a network that cannot be built, whose weights cannot be
                had, or that takes no images of this size.
        """
        if self._width is None:
            o = self.options
            if o.is_guard:
                self._width = given_teacher(Path(o.model), replace(context, device=torch.device("cpu"))).width
            else:
                self._width = tried_width(self._config(context), self._side(context.data.preprocess), context)
        return self._width

    def __call__(self, context: PrepareContext) -> Teacher:
        if self._made is None:
            given = self.options.model
            self._made = given_teacher(Path(given), context) if self.options.is_guard else self._trained(context)
        return self._made

    def _backbone(self, preprocess: Preprocess) -> str:
        """The network's name."""
        named = self.options.model
        return automatic_teacher(max(preprocess.height, preprocess.width)) if named == "auto" else named

    def _side(self, preprocess: Preprocess) -> int | None:
        """The side that images are resized to in front of it; None where they stay as they are."""
        side = self.options.image_size or published_side(self._backbone(preprocess))
        return None if side == preprocess.height == preprocess.width else side

    def _config(self, context: PrepareContext) -> TrainConfig:
        o, p = self.options, context.data.preprocess
        return TrainConfig(
            method="teacher",
            backbone=self._backbone(p),
            head="linear",
            score="energy",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=o.lr or (0.01 if o.pretrained else 0.1),
            seed=context.seed,
            image_size=self._side(p) or max(p.height, p.width),
            in_chans=1 if p.channels == 1 else 3,
            pretrained=o.pretrained,
            augment=o.augment,
            calibration=0,
            test=0,
            data_fingerprint=context.data.fingerprint,
        )

    def _trained(self, context: PrepareContext) -> Teacher:
        config, side = self._config(context), self._side(context.data.preprocess)
        options = self.options.model_copy(update={"model": config.backbone, "image_size": side})
        path = kept_path(context, "teacher", options, Schedule(epochs=self.epochs, batch_size=self.batch_size))
        folder = path.with_suffix("")
        module = fresh_teacher(config, context, side)
        folder.mkdir(parents=True, exist_ok=True)
        stages = [Stage("teacher", self.epochs, config.lr)]
        train_stages(module, Feed(context.data), stages, config, device=context.device, out=folder, resume=True)
        return Teacher(module, folder.name)


class Enlarged(Backbone):
    """A backbone that sees its images at another size, bilinear and antialiased; what it learns is the backbone's."""

    def __init__(self, backbone: Backbone, side: int) -> None:
        super().__init__()
        self.backbone, self.side, self.num_features = backbone, side, backbone.num_features

    def forward_map(self, x: Tensor) -> Tensor:
        size = (self.side, self.side)
        return self.backbone.forward_map(F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False))

    def pool(self, feature_map: Tensor) -> Tensor:
        return self.backbone.pool(feature_map)


def check_teacher(name: str) -> None:
    """Raises UnknownNameError for what is not a backbone's name, ConfigError where it looks like a folder."""
    if "/" in name or "\\" in name:
        raise ConfigError(f"teacher={name!r} is not a folder; give a run folder of guard.train or a backbone's name")
    check_backbone(name)


def fresh_teacher(config: TrainConfig, context: PrepareContext, side: int | None = None) -> GuardModule:
    """An untrained classifier of the context's classes, or one with published weights below its head.

    Args:
        side: that images are resized to in front of it; None: they are not.
    """
    with seeded(context.seed):
        classifier, normalisation = fresh_classifier(config, context.data)
    if side is not None:
        classifier.backbone = Enlarged(classifier.backbone, side)
    classifier = classifier.to(memory_format=torch.channels_last)
    return GuardModule(classifier, create_score(config.score), normalisation).to(context.device)


def tried_width(config: TrainConfig, side: int | None, context: PrepareContext) -> int:
    """The width of the features of a teacher that was built, shown one batch, and dropped.

    Raises:
        ConfigError: as `create_backbone`; or the network takes no images of this size.
    """
    module, p = fresh_teacher(config, context, side).eval(), context.data.preprocess
    try:
        with torch.inference_mode():
            return int(module.outputs(example_batch(p, context.device)).features.shape[1])
    except Exception as error:  # whatever a network of timm's raises about a shape
        raise ConfigError(
            f"teacher={config.backbone!r} takes no images of {p.height} x {p.width} pixels "
            f"({str(error)[:100]}); name another backbone, or the size that it takes: teacher.image_size"
        ) from error


def given_teacher(folder: Path, context: PrepareContext) -> Teacher:
    """The guard in `folder`.

    Raises:
        ConfigError: it knows other classes, or takes images of another size.
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
