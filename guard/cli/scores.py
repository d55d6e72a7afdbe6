"""``guard scores``: the scores, what each needs, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from . import cards, output
from .cards import Pattern
from .classifiers import classifier
from .flags import Debug, Json


def scores(
    pattern: Pattern = "*",
    model: Annotated[
        str | None, typer.Option(help="What guard fit takes as --model: says which scores it can have, or why not.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the scores with what they need, or show one score's options."""
    from ..errors import MissingExtraError

    try:
        from .. import scores as registry
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed by the scores)", "train") from error
    if not cards.is_pattern(pattern):
        registry.get_score(pattern)  # an unknown name raises, with near matches
        if model is None:
            cards.show("score", pattern, registry.list_scores(), registry.get_score, json)
            return
    listed = api.list_scores(pattern, model=None if model is None else classifier(model))
    if json:
        summaries = (cards.summary(registry.get_score(row.name)) for row in listed.rows)
        output.print_json([{**row.model_dump(), "summary": s} for row, s in zip(listed.rows, summaries, strict=True)])
    else:
        output.print_rows(listed.rows[0].columns() if listed else (), (row.cells() for row in listed.rows))
