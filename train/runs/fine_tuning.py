"""How a pretrained network is fine-tuned: the defaults, what they make of a method's stages, who chooses the epoch.

warm-up     the head alone on the frozen backbone, whose features the gradients of a head that has not converged would
            distort (Kumar et al., ICLR 2022: linear probing, then fine-tuning); images as they are, so that each goes
            through the backbone once
rates       the backbone learns at a tenth of the head's rate (Howard & Ruder, ACL 2018, call that discriminative)
freeze      every stage trains the head alone: linear probing
validation  part of the training split is not learned from and chooses the epoch by accuracy
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from guard.data import ImageData
from guard.data.held_out import Draw
from guard.data.splits import part_size
from guard.errors import ConfigError
from guard.requests import TrainRequest

from ..methods.base import Method, Stage
from .request import TrainConfig, default_batch_size

EPOCHS, LR, BACKBONE_LR, WARMUP_EPOCHS, VALIDATION = 10, 0.01, 0.1, 30, 0.1
PROBE_LR = 0.05  # of a head that learns alone
LEAST = 2  # images per class that an accuracy is measured on
WARM_UP = "warm-up"  # the stage's name
SMALLEST_CUT = 96  # pixels; a random part of a smaller image shows little


def tuned_defaults(request: TrainRequest, method: Method, images: int) -> dict[str, Any]:
    """Fields of `TrainConfig` that depend on the data's size or on a pretrained network, with every default found.

    Args:
        images: of the training split.
    """
    pretrained, tuned = bool(request.pretrained), bool(request.pretrained) and not request.freeze
    batch_size = request.batch_size or default_batch_size(images)
    share: int | float = (VALIDATION if pretrained else 0) if request.validation is None else request.validation
    return {
        "batch_size": batch_size,
        "epochs": request.epochs or (EPOCHS if tuned else method.epochs),
        "lr": request.lr or ((LR if tuned else PROBE_LR) if pretrained else method.peak_lr(batch_size)),
        "freeze": request.freeze,
        "backbone_lr": request.backbone_lr or (BACKBONE_LR if tuned else 1.0),
        "warmup_epochs": (WARMUP_EPOCHS if tuned else 0) if request.warmup_epochs is None else request.warmup_epochs,
        "weight_decay": request.weight_decay,
        "validation": part_size(share, images, "validation"),
    }


def check_recipe(request: TrainRequest) -> None:
    """Raises: ConfigError: what a frozen backbone does not read."""
    if not request.freeze:
        return
    for name in ("backbone_lr", "warmup_epochs"):
        if getattr(request, name):
            raise ConfigError(f"{name}={getattr(request, name)} is not read with freeze=True; drop one of them")
    if not request.pretrained and request.init is None:
        raise ConfigError("freeze=True keeps a backbone of random weights; give pretrained= or init= too")


def tuned_stages(stages: list[Stage], config: TrainConfig) -> list[Stage]:
    """The stages of a method as the recipe has them."""
    made = [_tuned(stage, config) for stage in stages]
    first = made[0]
    if not config.warmup_epochs or first.trains != "classifier" or not first.head_loss:
        return made
    return [_warm_up(first, config), *made]


def _tuned(stage: Stage, config: TrainConfig) -> Stage:
    if stage.trains != "classifier":
        return stage
    if config.weight_decay is not None:
        stage = replace(stage, weight_decay=config.weight_decay)
    if config.freeze:
        return replace(stage, trains="head")
    return replace(stage, backbone_lr=config.backbone_lr)


def _warm_up(stage: Stage, config: TrainConfig) -> Stage:
    """The head by its own loss, before the stage, at no smaller a rate than a probe's."""
    return Stage(
        WARM_UP,
        config.warmup_epochs,
        max(stage.lr, PROBE_LR),
        trains="head",
        optimizer=stage.optimizer,
        momentum=stage.momentum,
        nesterov=stage.nesterov,
        weight_decay=stage.weight_decay,
        clip=stage.clip,
        augmented=False,
    )


def chooses_epoch(stages: list[Stage]) -> bool:
    """Whether held-out accuracy may choose an epoch of these stages; for a warm-up alone no images are held out."""
    return any(stage.learns_labels_alone for stage in stages if stage.name != WARM_UP)


def divided(images: ImageData, count: int, seed: int) -> tuple[ImageData, ImageData]:
    """What is learned from, and `count` images that choose the epoch; copies stay together.

    Both are of the training split, so the calibration images stay exchangeable with what the guard will see: nothing
    was fitted to them or chosen on them.

    Raises:
        ConfigError: too few to tell epochs apart.
    """
    classes = len(images.class_names)
    if count < LEAST * classes:
        raise ConfigError(
            f"validation={count} images cannot choose the epoch of {classes} classes; give at least {LEAST * classes}, "
            "or validation=0"
        )
    rows = Draw(seed, 0, count).rows(images)
    return images.subset(np.asarray(rows["train"])), images.subset(np.asarray(rows["test"]))
