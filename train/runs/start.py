"""The run that `init=` names: what was not asked for is as it is there."""

from __future__ import annotations

from typing import Any

from guard.artefact.load import manifest_of
from guard.errors import ConfigError, UnknownNameError
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
    """
    return None if request.init is None else manifest_of(request.init)


def as_there(request: TrainRequest, method: Method, start: Manifest) -> TrainRequest:
    """The request with the backbone and, where the method takes any, the head of the run.

    Raises:
        ConfigError: another backbone, head or number of channels was asked for.
    """
    _check_is_built(request, start)
    found: dict[str, Any] = {"backbone": start.backbone} if request.backbone == "auto" else {}
    if _takes_head(request, method, start):
        found |= {"head": start.head, "head_options": {**start.head_options, **request.head_options}}
    made = request.model_copy(update=found)
    head = made.head or OWN_HEAD.get(made.score or "", method.head)
    channels = 1 if request.in_chans == 1 else 3
    asked, there = (made.backbone, head, channels), (start.backbone, start.head, start.preprocess.channels)
    widened = start.head == "linear" and issubclass(head_class(head), CPlus1Head)
    if asked != (there if not widened else (there[0], head, there[2])):
        raise ConfigError(
            f"init={str(request.init)!r} is {there[0]} with a {there[1]} head and {there[2]} channels, which does not "
            f"fit {asked[0]} with a {asked[1]} head and {asked[2]} channels; drop backbone=, head= and in_chans=, or "
            "train a network of your own"
        )
    return made


def _check_is_built(request: TrainRequest, start: Manifest) -> None:
    try:
        check_backbone(start.backbone)
        head_class(start.head)
    except UnknownNameError:
        raise ConfigError(
            f"init={str(request.init)!r} is {start.backbone} with head {start.head!r}, a network that is not made by "
            "its name; init= takes a run of guard.train"
        ) from None


def preprocess_of(request: TrainRequest, start: Manifest | None) -> Preprocess | None:
    """The run's size and geometry of images, where neither was asked for."""
    if start is None or request.image_size is not None or request.given():
        return None
    return start.preprocess


def _takes_head(request: TrainRequest, method: Method, start: Manifest) -> bool:
    """Whether the run's head is taken: nobody named another, and neither method nor score is made for one."""
    if request.head is not None or (request.score or "") in OWN_HEAD:
        return False
    return method.head == "linear" and (not method.heads or start.head in method.heads)
