"""`guard.list_methods`, `list_scores`, `create_score` and `register_score`: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .._siblings import needs

if TYPE_CHECKING:
    from ..scores.table import ScoreList


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the training methods that match a shell pattern, e.g. ``"*mix*"``."""
    return cast("list[str]", needs("train", "train.methods").list_methods(pattern))


def list_scores(pattern: str = "*", *, model: Any = None) -> ScoreList:
    """The scores that match a shell pattern: a list of names that prints as a table of what each needs.

    Args:
        pattern: e.g. ``"*maha*"``.
        model: what `fit` takes: adds a column that says whether the score applies to it, or why not. No data is needed
            and no weights are downloaded.

    Returns:
        The names, sorted; ``.rows`` holds a `guard.scores.table.ScoreInfo` of each.
    """
    from ..scores import list_scores as list_
    from ..scores.table import score_table

    classifier = None
    if model is not None:
        classifier = needs("train", "train.classifiers.inspect").open_without_data(model)
    return score_table(list_(pattern), classifier)


def create_score(name: str, **options: Any) -> Any:
    """An unfitted score module (torch) by name, e.g. ``create_score("energy", temperature=2.0)``."""
    from ..scores import create_score as create

    return create(name, **options)


def register_score(score: type) -> type:
    """Class decorator: makes a `guard.scores.Score` subclass available by its ``name`` everywhere."""
    from ..scores import register_score as register

    return register(score)
