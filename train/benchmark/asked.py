"""Scores as a benchmark's file names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guard.errors import ConfigError
from guard.graph.outputs import FeatureClassifier
from guard.heads import head_class
from guard.requests import TrainRequest
from guard.scores import Score
from guard.scores.table import why_not

from ..methods.base import Method
from ..runs.default_score import PRETRAINED_NAME
from ..runs.resolve import asked_score, named_score, score_for

OWN = "own"


@dataclass(frozen=True)
class AskedScore:
    """A score with the options that were given, and what it is called in the report."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


def asked_scores(given: Iterable[Any]) -> tuple[AskedScore, ...]:
    """From names, and mappings with `name`, options and perhaps a `label`.

    Raises:
        ConfigError: an entry without a name, or two with one label.
    """
    found = [_asked(entry) for entry in given]
    labels = [score.label for score in found]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two scores of the benchmark are called {label!r}; give one a label of its own")
    return tuple(found)


def scores_of_method(given: Any, name: str) -> tuple[AskedScore, ...]:
    """The scores that a method lists for itself: one, or several.

    Raises:
        ConfigError: an empty list, or anything else.
    """
    if isinstance(given, str | Mapping):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        raise ConfigError(
            f"scores of method {name!r} of the benchmark must be a list of at least one, like [energy, knn], got "
            f"{given!r}; without this key it has those of the file"
        )
    return asked_scores(given)


def _asked(entry: Any) -> AskedScore:
    if isinstance(entry, str):
        return AskedScore(entry, {}, entry)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"a score of the benchmark is a name, or a mapping like {{name: knn, k: 10}}, got {entry!r}")
    options = {key: value for key, value in entry.items() if key not in ("name", "label")}
    if entry["name"] == OWN and options:
        raise ConfigError(
            f"the score own of the benchmark is the method's, with the method's options, got {dict(entry)!r}; say them "
            "as score_options of the method, or name the score"
        )
    return AskedScore(entry["name"], options, str(entry.get("label") or labelled(entry["name"], options)))


def labelled(name: str, options: Mapping[str, Any]) -> str:
    """What a score with these options is called where nobody said."""
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{name} ({said})" if said else name


def own_of(request: TrainRequest, method: Method) -> AskedScore:
    """The score that the training chooses by itself."""
    name = asked_score(request, method).label
    chosen = named_score(request, method)
    if chosen.why:
        return AskedScore(str(chosen.name), chosen.options, PRETRAINED_NAME)
    options = {key: value for key, value in chosen.options.items() if "+" not in name or key != "parts"}
    return AskedScore(name, options, labelled(name, options))


def resolved(
    asked: Iterable[AskedScore], request: TrainRequest, method: Method, classifier: FeatureClassifier
) -> tuple[AskedScore, ...]:
    """With the method's own score in the place of "own", and each score once.

    Raises:
        ConfigError, ModelError: a score that the network of this training will not have, or two of one label.
    """
    own = own_of(request, method)
    found: dict[str, tuple[AskedScore, Score]] = {}
    for score in asked:
        use = score
        if score.name == OWN:
            use = own if score.label == OWN else replace(own, label=score.label)
        made = created(use, method)
        check(made, request, method, classifier)
        _, there = found.setdefault(use.label, (use, made))
        if (there.name, there.options) != (made.name, made.options):
            raise ConfigError(
                f"two scores of method {method.name!r} in the benchmark are called {use.label!r}; give one a label of "
                "its own"
            )
    return tuple(use for use, _ in found.values())


def created(asked: AskedScore, method: Method) -> Score:
    """Unfitted, with what follows from the method's options.

    Raises:
        ConfigError: an unknown score, an option it does not have, or one that another method learns.
    """
    return score_for(method, asked.name, asked.options)


def check(score: Score, request: TrainRequest, method: Method, classifier: FeatureClassifier) -> None:
    """Raises: ConfigError: the network cannot give the score, or its training does not learn it."""
    learned = {part.name for part in asked_score(request, method).parts() if part.trained_by}
    for part in score.parts():
        if part.trained_by and part.name not in learned:
            raise ConfigError(
                f"score {part.name!r} is learned in training, and method {method.name!r} with these arguments learns "
                f"{', '.join(sorted(learned)) or 'none'}; list it under scores: of the method that does"
            )
        reason = "" if part.trained_by else why_not(part, classifier)
        if reason:
            raise ConfigError(f"score {part.name!r} {reason}; head {head_name(request)} of method {method.name!r}")


def head_name(request: TrainRequest) -> str:
    return repr(head_class(request.head).name) if request.head else "of its own"
