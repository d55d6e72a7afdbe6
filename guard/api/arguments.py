"""What the public functions do with an argument before it goes into a request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..requests import FitRequest


def path_of(given: str | Path | None) -> Path | None:
    """A path; whatever is none is left for the request to refuse."""
    return Path(given) if isinstance(given, str) else given


def mapping_of(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """No mapping is the empty one."""
    return {} if given is None else given


def score_option_or_typo(names: Iterable[str], score: str | None, request: type[FitRequest]) -> str:
    """Why `guard.fit` does not take an argument of this name, and what to write: the first of `names` decides."""
    from ..scores import get_score

    name, score = next(iter(names)), score or "energy"
    if name in get_score("combined" if "+" in score else score).Options.model_fields:
        how = f"score_options={{{name!r}: ...}} (--score-set {name}=...)"
        return f"{name} is an option of score {score!r}: give {how}"
    near = difflib.get_close_matches(name, request.model_fields, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return (
        f"{request.function} has no argument {name!r}{meant} Options of the score are given with score_options={{...}}"
    )
