"""What ``guard train`` and ``guard fit`` end with."""

from __future__ import annotations

from pathlib import Path

from .. import api
from ..detector import Guard
from ..launched import is_first_process
from . import output, runs


def finish(g: Guard, folder: Path, *, export: bool, json: bool) -> None:
    """Export where the score can be, mark as the latest run, and say what was made; of several processes the first."""
    if not is_first_process():
        return
    from ..scores import get_score

    score = get_score(g.manifest.score)
    why_not = f"{score.no_export}; the nearest score that exports is {score.nearest}" if score.no_export else ""
    exported = api.export(g, folder / "guard.onnx") if export and not why_not else None
    runs.mark_latest(folder)
    if json:
        output.print_json(output.summary(g, folder, exported, why_not))
    else:
        output.print_summary(g, folder, exported, why_not)
