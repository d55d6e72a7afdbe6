"""Options that had another name before 0.2: the old name, and the new one as a path through nested options."""

from __future__ import annotations

RENAMED: dict[str, str] = {}
