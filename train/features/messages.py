"""What torch said, short enough for an error of one sentence."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """What torch said, without the pages that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def cut(text: str, most: int) -> str:
    """`text`, or its beginning."""
    return text if len(text) <= most else text[: most - 3] + "..."
