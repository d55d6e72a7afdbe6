"""Which run of how many, and the time left: for people at a terminal, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from train.benchmark.benchmark import _Pace
from train.benchmark.plan import Run
from train.engine import progress

RUN = Run("wrn10_2", "phase_mix", "cosine", 3, "cosine", {}, (), {})


def test_the_time_left_is_said_once_a_run_has_shown_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.benchmark.benchmark.time.perf_counter", lambda: 700.0)
    pace = _Pace(9, began=100.0)
    assert pace.said(RUN, 9) == "run 1 of 9: phase_mix, cosine head, wrn10_2, seed 3"
    pace.done = 2  # another process did one as well
    assert pace.said(RUN, 6) == "run 4 of 9: phase_mix, cosine head, wrn10_2, seed 3; about 30 min left"
    pace.began = -14300.0
    assert pace.said(RUN, 6).endswith("; about 12.5 h left")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_hears_of_it_and_a_file_does_not(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = progress.Console

    def console(**given: Any) -> Any:
        return real(**given, force_terminal=terminal, width=80)

    monkeypatch.setattr(progress, "Console", console)
    progress.said_on_a_terminal("run 1 of 2 [plain]")
    said = capsys.readouterr()
    assert ("run 1 of 2 [plain]" in said.err, said.out) == (terminal, "")
