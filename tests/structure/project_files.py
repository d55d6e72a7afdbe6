"""The files of the project, without what is built beside them."""

from __future__ import annotations

import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("guard", "train", "export", "serving", "benchmarks", "tests", "docs", ".ci", ".github")


@functools.cache
def project_files(*suffixes: str) -> tuple[str, ...]:
    """Paths from the root, sorted, of the files whose name ends so."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts]
    found += ROOT.glob("*")
    return tuple(sorted(p.relative_to(ROOT).as_posix() for p in found if p.is_file() and p.name.endswith(suffixes)))
