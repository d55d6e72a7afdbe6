"""The score where none was asked for: another one for pretrained networks, decided here for `guard.train` and `fit`.

A network of published weights sees much more in an image than its classes need. New classes of the same kind lie
within that, so the residual that ViM adds tells little of them; the distance to the class means on the unit sphere
does, and the energy catches what the classifier is unsure of. Measured in docs/fine_tuning.md.

Networks that start from nothing have their method's, a combination; where few images are held out, a part of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from guard.graph.outputs import FeatureClassifier
from guard.requests import FitRequest, TrainRequest
from guard.scores import Score, create_score
from guard.scores.table import why_not

from ..augmentations.base import chain
from ..classifiers import hugging_face
from ..features.copies import unwrapped
from ..methods.base import Method

log = logging.getLogger("ood_guard")

SINGLE = "multilayer_mahalanobis"  # of a default combination with this part, where few images are held out
ENOUGH = 800  # calibration images: half become p-values, and the threshold keeps 400, as of a split of few images
GIVEN = "energy"  # of `guard.fit`: it needs nothing but logits


@dataclass(frozen=True)
class AskedScore:
    """A score's name, None for the method's own; its options; and why nobody had to name it, "" where somebody did."""

    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


PRETRAINED = AskedScore(
    "combined", {"parts": ("energy", "mahalanobis"), "part_options": {"mahalanobis": {"normalise": 1.0}}}
)
PRETRAINED_NAME = "energy+mahalanobis++"  # for people


def of_training(request: TrainRequest, method: Method) -> AskedScore:
    """For a method that has no head or score of its own to say.

    Only a method that merely classifies gives its score up; what another one trains its score for holds all the same.
    """
    plain = method.only_classifies and not request.score_options
    if request.score is None and request.pretrained and plain:
        return AskedScore(PRETRAINED.name, PRETRAINED.options, "the network starts from published weights")
    return AskedScore(request.score, request.score_options)


def where_few(score: Score, asked: AskedScore, calibration: int) -> Score:
    """Its part `SINGLE` alone where nobody asked for the combination and fewer than `ENOUGH` images are held out.

    Half of them would go into p-values, and the threshold would rest on the other half; and the logits of a network
    that learned from few images say little (docs/methods.md has the measurement).
    """
    parts = [part.name for part in score.parts()]
    if asked.name is not None or asked.options or calibration >= ENOUGH or len(parts) == 1 or SINGLE not in parts:
        return score
    log.info(
        "score: %s alone, because %d calibration images are fewer than the %d that %s asks for; score= chooses another",
        SINGLE,
        calibration,
        ENOUGH,
        score.label,
    )
    return create_score(SINGLE)


def of_given(request: FitRequest) -> AskedScore:
    """For a classifier that the user has: the pretrained one's where timm or transformers made it."""
    if request.score is not None or request.score_options:
        return AskedScore(GIVEN if request.score is None else request.score, request.score_options)
    if request.outliers is None and (whose := _published_by(request.model)):
        return AskedScore(PRETRAINED.name, PRETRAINED.options, f"{whose} models are pretrained as a rule")
    return AskedScore(GIVEN)


def _published_by(model: Any) -> str:
    """Which library a model is from; "" where it does not show."""
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        if hugging_face.is_model(model):
            return "Hugging Face"
        return "timm" if getattr(model, "pretrained_cfg", None) else ""
    if not isinstance(model, (str, Path)):
        return ""
    import timm

    if isinstance(model, str) and "/" not in model and timm.is_model(model):
        return "timm"
    return "Hugging Face" if hugging_face.is_one(model) else ""


def that_applies(asked: AskedScore, score: Score, classifier: FeatureClassifier) -> Score:
    """`score`, or `GIVEN` where nobody asked for it and the classifier cannot have it; logged in either case."""
    if not asked.why:
        return score
    if any(why_not(part, classifier) for part in score.parts()):
        return create_score(GIVEN)
    say(asked)
    return score


def say(asked: AskedScore) -> None:
    """Log which default was taken, and why."""
    if asked.why:
        log.info("score: %s, because %s; score= chooses another", PRETRAINED_NAME, asked.why)


def say_where_no_mirror_was(score: Score, augment: str) -> None:
    """Log it where the score looks at mirror images and the training shows none."""
    if score.mirrored and not {kind.name for kind in chain(augment)} & {"flip", "resized_crop"}:
        log.warning(
            "mirror=True looks at mirror images too, and with augment=%r the network is trained on none: it may not "
            "know them",
            augment,
        )
