"""docs/scores.md keeps step with the registry: a row for every score, and what a row says is what the score does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guard.scores import Score, get_score, list_scores
from guard.scores.base import ScoreOptions

PAGE = Path(__file__).parents[3] / "docs" / "scores.md"
COLUMNS = ["score", "`ood_score`", "needs", "fit", "exports", "default options", "source"]


def cells(line: str) -> list[str]:
    """The cells of one row; a bar inside a cell is written as \\|."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows() -> dict[str, dict[str, str]]:
    """The first table of the page, by score."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| score | `ood_score` |"))
    head, found = cells(lines[start]), {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        row = cells(line)
        assert len(row) == len(head), row
        name = row[0].strip("`")
        assert name not in found, f"{name} has two rows"
        found[name] = dict(zip(head, row, strict=True))
    return found


def expected(score: type[Score]) -> dict[str, str]:
    """What the row must say, but for its last cell."""
    own = {n: field for n, field in score.Options.model_fields.items() if n not in ScoreOptions.model_fields}
    options = ", ".join(f"`{name}={field.default!r}`" for name, field in own.items())
    fit = "no"
    if score.trained_by:
        fit = f"trained by `{score.trained_by}`"
    elif score.needs_fit:
        fit = "in-distribution images"
    elif {"weights", "extra class"} & set(score.needs):
        fit = "last layer"
    exports = f"no: {score.no_export}; nearest: {score.nearest}" if score.no_export else "yes"
    values = [f"`{score.name}`", f"`{score.equation}`", ", ".join(score.needs), fit, exports, options or "none"]
    return dict(zip(COLUMNS, [*values, score.source], strict=True))


def test_there_is_a_row_for_every_score_of_the_package() -> None:
    assert sorted(rows()) == [name for name in list_scores() if get_score(name).__module__.startswith("guard.")]


@pytest.mark.parametrize("name", sorted(rows()))
def test_a_row_says_what_the_score_does(name: str) -> None:
    row = rows()[name]
    assert {column: row[column] for column in COLUMNS} == expected(get_score(name))


@pytest.mark.parametrize("name", sorted(rows()))
def test_a_row_names_what_the_score_is_checked_against(name: str) -> None:
    source = rows()[name]["checked against, and differences"]
    assert re.match(r"formula|pytorch-ood|the network written out", source)
    if "pytorch-ood" not in source:
        assert "no other implementation" in source


def test_what_the_page_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
