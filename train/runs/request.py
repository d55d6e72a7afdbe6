"""What a training run was asked for, as a frozen record: every default visible, unknown fields refused. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from guard.record import Record
from guard.requests import Precision

SMALL_DATA = 5000  # images; below, smaller batches give an epoch enough steps


class TrainConfig(Record):
    """What decides a training's result, with every default found (`resolve.resolved`).

    It is stored in the checkpoint and compared on resume: the default of a new field is the value that older runs had.
    Neither what only runs it (device, workers, threads) nor what the threshold alone follows from (alpha) is among it.
    """

    method: str
    options: dict[str, Any] = {}
    backbone: str
    head: str
    head_options: dict[str, Any] = {}
    score: str
    score_options: dict[str, Any] = {}
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    image_size: int | tuple[int, int]
    geometry: dict[str, Any] = {}  # how images come to that size, where it is not the default
    in_chans: Literal[1, 3] = 3
    pretrained: bool | str = False
    weights: str | None = None  # digest of the checkpoint that `pretrained` names
    freeze: bool = False
    backbone_lr: float = Field(default=1.0, gt=0, le=1)
    warmup_epochs: int = Field(default=0, ge=0)
    weight_decay: float | None = Field(default=None, ge=0)
    validation: int = Field(default=0, ge=0)  # images
    init: str | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    augment: str = "crop+flip"
    precision: Precision = "auto"
    calibration: int = Field(ge=0)
    test: int = Field(ge=0)
    data_fingerprint: str
    outliers_fingerprint: str | None = None
    mixing_fingerprint: str | None = None


def default_batch_size(images: int) -> int:
    """In-distribution images per step, for a training split of so many."""
    return 128 if images >= SMALL_DATA else 32
