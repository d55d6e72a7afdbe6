"""One concept per file: a file that outgrows this holds two."""

from __future__ import annotations

import pytest

from tests.structure.project_files import ROOT, project_files

LARGEST = 350


def test_no_python_file_is_longer_than_it_can_be_read() -> None:
    lines = {path: (ROOT / path).read_text().count("\n") for path in project_files(".py")}
    assert len(lines) > 300  # the walk found the project
    assert {path: n for path, n in lines.items() if n >= LARGEST} == {}


@pytest.mark.parametrize("path", ["guard/record.py", "tests/structure/test_sizes.py", "benchmarks/scores.py"])
def test_the_walk_sees_every_room(path: str) -> None:
    assert path in project_files(".py")


def test_the_walk_leaves_out_what_git_does_not_hold() -> None:
    assert not [path for path in project_files(".py") if path.startswith((".venv", "build", "dist"))]
