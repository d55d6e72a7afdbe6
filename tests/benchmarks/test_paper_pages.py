"""docs/papers: every entry that a page names is in a file, and every entry of a file is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks.papers_scaled import FILES, keys_of

PAGES = Path(__file__).parents[2] / "docs" / "papers"
ENTRY = re.compile(rf"`({'|'.join(FILES)}): ([^`]+)`")
ROW = re.compile(r"^\| (?!---)(.+) \|$", re.MULTILINE)


def entries(text: str) -> set[tuple[str, str]]:
    return {(file, key) for file, key in ENTRY.findall(text)}


def every_page() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_an_entry_that_is_named_exists(page: str) -> None:
    named = entries((PAGES / page).read_text(encoding="utf-8"))
    assert named
    for file, key in named:
        keys = keys_of(file)
        assert key in keys["methods"] or key in keys.get("stores", {}), f"{page}: {file} has no {key!r}"


@pytest.mark.parametrize("file", FILES)
def test_every_entry_is_named(file: str) -> None:
    keys, named = keys_of(file), entries(every_page())
    lacking = [key for key in (*keys["methods"], *keys.get("stores", {})) if (file, key) not in named]
    assert not lacking


@pytest.mark.parametrize("file", FILES)
def test_every_published_row_is_on_a_page_with_its_numbers(file: str) -> None:
    lines = every_page().splitlines()
    for table in keys_of(file)["published"]:
        for row in table["rows"]:
            numbers = [one for key in ("accuracy",) if (one := row.get(key)) is not None]
            wanted = [f"{number:.2f}".rstrip("0").rstrip(".") for number in numbers]
            found = [line for line in lines if line.startswith(f"| {row['row']} |")]
            assert any(all(f" {number} " in line for number in wanted) for line in found), (table["table"], row["row"])


def test_a_row_without_an_entry_says_why() -> None:
    for line in every_page().splitlines():
        if line.startswith("| ") and "---" not in line and not re.match(r"\| (row|what)\b", line):
            last = line.rstrip(" |").rsplit(" | ", 1)[-1]
            assert last, line
            assert last != "not run", f"no reason: {line}"
