"""The run that `init=` names: what was not asked for is as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guard.data.class_names import listed
from guard.data.classes import ClassOrder, matched, nameless
from guard.detector import Guard
from guard.errors import ConfigError, ModelError, UnknownNameError
from guard.heads import CPlus1Head, head_class
from guard.manifest import Manifest, Preprocess
from guard.requests import TrainRequest

from ..backbones import check_backbone
from ..methods.base import Method
from .resolve import OWN_HEAD


def start_of(request: TrainRequest) -> Manifest | None:
    """The manifest of the run that the network starts from; None where it starts afresh.

    Raises:
        ArtefactNotFoundError, ArtefactDamagedError: it is not a run, or not a whole one.
        ConfigError: it is a file, or a network that is not made by its name.
    """
    if request.init is None:
        return None
    if request.init.is_file():
        raise ConfigError(f"init={str(request.init)!r} is a file; give the run folder that it was exported from")
    try:
        start = Guard.from_pretrained(request.init, device="cpu").manifest
        check_backbone(start.backbone)
        head_class(start.head)
    except (ModelError, UnknownNameError):
        raise ConfigError(
            f"init={str(request.init)!r} is a network that is not made by its name; init= takes a run of guard.train"
        ) from None
    return start


def as_there(request: TrainRequest, method: Method, start: Manifest) -> TrainRequest:
    """The request with the backbone and, where the method takes any, the head of the run.

    Raises:
        ConfigError: another backbone, head or number of channels was asked for.
    """
    found: dict[str, Any] = {"backbone": start.backbone} if request.backbone == "auto" else {}
    if _takes_head(request, method, start):
        found |= {"head": start.head, "head_options": {**start.head_options, **request.head_options}}
    made = request.model_copy(update=found)
    head = made.head or OWN_HEAD.get(made.score or "", method.head)
    widened = start.head == "linear" and issubclass(head_class(head), CPlus1Head)
    asked = {"backbone": made.backbone, "head": head, "in_chans": 1 if request.in_chans == 1 else 3}
    there = {"backbone": start.backbone, "head": head if widened else start.head, "in_chans": start.preprocess.channels}
    wrong = [name for name, value in there.items() if value != asked[name]]
    if wrong:
        raise ConfigError(
            f"init={str(request.init)!r} has {_listed(there, wrong)}, and this training {_listed(asked, wrong)}; "
            f"give {_listed(there, wrong)}, or train a network of your own"
        )
    return made


def order_of(request: TrainRequest, data_names: tuple[str, ...], start: Manifest) -> ClassOrder:
    """Which of the run's logits each class of the data is, by name; by index where one of them has no names.

    Raises:
        ConfigError: other classes.
    """
    names, indices = start.class_names, np.arange(len(data_names))
    if len(names) == len(data_names):
        if (found := matched(data_names, names)) is not None:
            return ClassOrder(names, found, data_names, by_name=True)
        if nameless(data_names):
            return ClassOrder(names, indices, data_names)
        if nameless(names):
            return ClassOrder(data_names, indices, data_names, named=False)
    raise ConfigError(
        f"init={str(request.init)!r} knows {len(names)} classes ({listed(names, 5)}), and the data has "
        f"{len(data_names)} ({listed(data_names, 5)}); name the data's as the run has them, or train without init="
    )


def preprocess_of(request: TrainRequest, start: Manifest | None) -> Preprocess | None:
    """The run's size and geometry of images, where neither was asked for."""
    if start is None or request.image_size is not None or request.given():
        return None
    return start.preprocess


def _listed(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={values[name]!r}" for name in names)


def _takes_head(request: TrainRequest, method: Method, start: Manifest) -> bool:
    """Whether the run's head is taken: nobody named another, and neither method nor score is made for one."""
    if request.head is not None or (request.score or "") in OWN_HEAD:
        return False
    return method.head == "linear" and (not method.heads or start.head in method.heads)
