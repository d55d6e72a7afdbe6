"""Each row of the report against the row of the baseline that it is best compared with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from guard.errors import ArtefactDamagedError, DataError

from .intervals import Difference, over_images, over_seeds
from .results import Results, Row, read_scores
from .summary import Group, mean_over

log = logging.getLogger("ood_guard")


@dataclass(frozen=True)
class Compared:
    """A group and the baseline's; the differences of the mean AUROC over near and over far, None without such sets."""

    group: Group
    baseline: Group
    near: Difference | None
    far: Difference | None


def compared(results: Results, groups: Sequence[Group], baseline: str) -> list[Compared]:
    """Every other method's groups against the baseline's of the same score, backbone and, where it has it, head.

    Where the baseline has no such score, it is its first.
    """
    found = []
    for group in groups:
        other = _counterpart(group, groups, baseline)
        if group.method == baseline or other is None or not set(group.seeds) & set(other.seeds):
            continue
        near, far = (_difference(results, group, other, names) for names in (results.near, results.far))
        found.append(Compared(group, other, near, far))
    return found


def _counterpart(group: Group, groups: Sequence[Group], baseline: str) -> Group | None:
    theirs = [g for g in groups if g.method == baseline and g.backbone == group.backbone]
    same_head = [g for g in theirs if g.head == group.head] or theirs
    same_score = [g for g in same_head if g.score == group.score] or same_head
    return same_score[0] if same_score else None


def _trained_alike(row: Row) -> tuple[int, str]:
    """What rows that are compared have in common: the seed, and the classes that are left out."""
    return row["seed"], row.get("left_out", "")


def _difference(results: Results, group: Group, other: Group, names: tuple[str, ...]) -> Difference | None:
    theirs = {_trained_alike(row): row for row in other.rows}
    pairs = [(row, theirs[_trained_alike(row)]) for row in group.rows if _trained_alike(row) in theirs]
    differences = []
    for row, baseline in pairs:
        ours, reference = mean_over(row, names, "auroc"), mean_over(baseline, names, "auroc")
        if ours is None or reference is None:
            return None
        differences.append(ours - reference)
    if len(pairs) > 1:
        return over_seeds(differences)
    return Difference(differences[0], _over_images(results, pairs[0], names), "images")


def _over_images(results: Results, pair: tuple[Row, Row], names: tuple[str, ...]) -> tuple[float, float] | None:
    """The interval by the scores on disk; None where they are not there, damaged, or of other images."""
    try:
        first, other = (read_scores(results.folder, row) for row in pair)
        if any(name not in one for one in (first, other) for name in ("", *names)):
            return None
        return over_images(first, other, names)
    except (ArtefactDamagedError, DataError) as error:
        log.warning("no interval of %s against %s: %s", pair[0]["method"], pair[1]["method"], error)
        return None
