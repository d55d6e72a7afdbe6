"""serving/ under a name nobody can shadow: the same folder, reached when `serving` is a user's own file."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "serving")]
