"""What `guard.train` was asked for, with every default found: method, score, head, backbone, batch size ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard.calibration.conformal import reachable_rank
from guard.data.held_out import Splits
from guard.errors import ConfigError
from guard.geometry import size_of
from guard.heads import CPlus1Head, head_class
from guard.record import parse_options
from guard.requests import TrainRequest
from guard.scores import Score, create_score

from ..augmentations.base import chain
from ..augmentations.given import check_mixing_set
from ..backbones import automatic_backbone, check_backbone
from ..cache.keyed import file_digest
from ..classifiers.input import check_channels
from ..methods.base import Method, get_method
from ..outliers.base import list_synthesisers
from ..pretrained import Checkpoint, checkpoint
from .default_score import AskedScore, of_training
from .fine_tuning import SMALLEST_CUT, check_recipe, tuned_defaults
from .request import TrainConfig

SMALLEST_SIDE = 4  # pixels; less is not an image
OWN_HEAD = {"cosine": "cosine", "reject_class": "c_plus_1"}  # of the scores that one head is made for


def asked_method(request: TrainRequest) -> Method:
    """The method with its options.

    Raises:
        ConfigError: an unknown method, or an option that it does not have or accept.
    """
    kind = get_method(request.method)
    owner = f"method {kind.name!r}"
    return kind(parse_options(kind.Options, dict(request.options), owner, also=TrainRequest.model_fields))


def asked_score(request: TrainRequest, method: Method) -> Score:
    """The score that was asked for, else the one of the head or the method; unfitted."""
    asked = named_score(request, method)
    return score_for(method, asked.name, asked.options)


def named_score(request: TrainRequest, method: Method) -> AskedScore:
    """Its name and options.

    A head's own score gives way to one that the method learns.
    """
    asked = request.score or (method.head_scores.get(request.head) if request.head else None)
    if asked is None and request.head and not score_for(method, None, {}).trained_by:
        asked = head_class(request.head).score or None
    return of_training(request, method) if asked is None else AskedScore(asked, request.score_options)


def score_for(method: Method, asked: str | None, given: Mapping[str, Any]) -> Score:
    """A score for a method, with the options that follow from the method's.

    Raises:
        ConfigError: another method's training gives what the score needs.
    """
    name, options = asked or method.default_score(), dict(given)
    if name == method.score:
        options = _merged(method.score_options(), options)
    elif method.score in (name.split("+") if "+" in name else options.get("parts", ())):
        own = {**method.score_options(), **options.get("part_options", {}).get(method.score, {})}
        options["part_options"] = {**options.get("part_options", {}), method.score: own}
    score = create_score(name, **options)
    for part in score.parts():
        if part.trained_by and part.trained_by not in (method.name, method.teaches):
            raise ConfigError(
                f"score {part.name!r} is learned by method {part.trained_by!r}, not by {method.name!r}; "
                f"use method={part.trained_by!r}, or score={method.score!r}"
            )
    return score


def _merged(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options of its score with those that were asked for in their place, and of each part likewise."""
    merged, of_parts = {**own, **asked}, asked.get("part_options", {})
    if "part_options" in own:
        kept = {part: given for part, given in own["part_options"].items() if part in merged["parts"]}
        merged["part_options"] = {**of_parts, **{part: {**kept[part], **of_parts.get(part, {})} for part in kept}}
    return merged


def asked_head(request: TrainRequest, method: Method, score: Score) -> str:
    """The head that was asked for, else the score's own or the method's.

    Raises:
        ConfigError: the score or the method needs another.
    """
    head = request.head or OWN_HEAD.get(score.name, method.head)
    if "extra class" in score.needs and not issubclass(head_class(head), CPlus1Head):
        raise ConfigError(f"score {score.name!r} reads the extra class of head='c_plus_1'; head={head!r} has none")
    if method.heads and head not in method.heads:
        raise ConfigError(f"method {method.name!r} trains head={' or '.join(map(repr, method.heads))}, not {head!r}")
    return head


#: Options that came to heads and scores later, with their defaults.
ADDED = (("label_smoothing", 0.0), ("search", "auto"), ("probes", 80), ("mirror", False))


def head_options(head: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A head's options with every default in place, `as_before`."""
    return as_before(parse_options(head_class(head).Options, dict(given), f"head {head!r}").model_dump())


def as_before(options: dict[str, Any]) -> dict[str, Any]:
    """Without those at their default that runs of before lack, so that they resume."""
    return {name: value for name, value in options.items() if (name, value) not in ADDED}


def check_before_loading(request: TrainRequest, method: Method, score: Score) -> None:
    """Whatever can be refused without the images, beside the request's own fields: decoding them may take minutes.

    Raises:
        ConfigError, CalibrationError, UnknownNameError: with what is accepted.
    """
    check_channels(request.in_chans)
    if request.augment != "auto":
        chain(request.augment)
    check_mixing_set(request.mixing_set, request.augment)
    check_recipe(request)
    if request.backbone != "auto" or asked_weights(request) is not None:
        check_backbone(asked_backbone(request, SMALLEST_CUT))
    if method.wants_outliers == "no" and request.outliers is not None:
        raise ConfigError(f"method {method.name!r} makes its own outliers; omit outliers=, or use 'oe'")
    if method.wants_outliers == "required" and request.outliers is None:
        raise ConfigError(
            f"method {method.name!r} learns from outlier images: give outliers= a folder, Parquet file or data set "
            f"of images that are none of your classes, or one of {', '.join(map(repr, list_synthesisers()))}"
        )
    method.check_outliers(request.outliers)
    reachable_rank(10**9, request.alpha)
    head_options(asked_head(request, method, score), request.head_options)


def resolved(
    request: TrainRequest,
    method: Method,
    score: Score,
    splits: Splits,
    outliers_fingerprint: str | None,
    mixing_fingerprint: str | None = None,
) -> TrainConfig:
    """What decides the result of the training, all of it known now."""
    source = splits.source
    p = source.preprocess
    side = min(p.height, p.width)
    if side < SMALLEST_SIDE:
        raise ConfigError(f"guard.train option image_size: the side must be at least {SMALLEST_SIDE}, got {side}")
    head = asked_head(request, method, score)
    published = asked_weights(request)
    return TrainConfig(
        method=method.name,
        options=method.options.model_dump(),
        backbone=asked_backbone(request, max(p.height, p.width)),
        head=head,
        head_options=head_options(head, request.head_options),
        score=score.name,
        score_options=as_before(score.options.model_dump()),
        seed=request.seed,
        image_size=size_of(p),
        geometry=p.geometry(),
        in_chans=1 if request.in_chans == 1 else 3,
        pretrained=request.pretrained if isinstance(request.pretrained, bool) else str(request.pretrained),
        weights=None if published is None else file_digest(published.file),
        **tuned_defaults(request, method, len(splits.train)),
        init=None if request.init is None else str(request.init),
        ema=request.ema,
        augment=_augment(request, splits),
        precision=request.precision,
        calibration=len(splits.calibration),
        test=len(splits.test) if splits.test is not None else 0,
        data_fingerprint=source.fingerprint,
        outliers_fingerprint=outliers_fingerprint,
        mixing_fingerprint=mixing_fingerprint,
    )


def asked_weights(request: TrainRequest) -> Checkpoint | None:
    """The checkpoint that `pretrained` names; None for timm's own weights, or none.

    Raises:
        ConfigError, MissingDataError: it is not there, or not one.
    """
    return None if isinstance(request.pretrained, bool) else checkpoint(request.pretrained)


def asked_backbone(request: TrainRequest, side: int) -> str:
    """The backbone that was asked for, else the checkpoint's, else what suits images of `side` pixels.

    Raises:
        ConfigError: the checkpoint is another's, or does not say whose it is.
    """
    published = asked_weights(request)
    known = None if published is None else published.architecture
    if request.backbone != "auto":
        if known is not None and known != request.backbone:
            raise ConfigError(
                f"pretrained={str(request.pretrained)!r} holds {known}, not {request.backbone!r}; drop backbone="
            )
        return request.backbone
    if published is not None and known is None:
        raise ConfigError(f"{published.file} does not say which network it is of; name it with backbone=")
    return known or automatic_backbone(side)


def _augment(request: TrainRequest, splits: Splits) -> str:
    p = splits.source.preprocess
    if request.augment != "auto":
        return request.augment
    if request.freeze:
        return "none"  # features are then computed once
    if splits.source.name.startswith("digits"):  # digits have a handedness
        return "crop"
    return "resized_crop" if request.pretrained and min(p.height, p.width) >= SMALLEST_CUT else "crop+flip"
