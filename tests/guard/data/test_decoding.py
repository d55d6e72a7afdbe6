"""The processes that decode leave nothing behind, and their errors reach the user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from guard.data import load
from guard.errors import DataError
from tests.guard.data.many_images import CONFIG, ROOT, Pairs, open_form


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_leaving_early_leaves_no_process_behind(tmp_path: Path, streaming: None) -> None:
    data, _ = open_form("folder", tmp_path, workers=2)
    before = children()
    stream = data.batches(4)
    next(stream)
    assert len(children() - before) == 2
    stream.close()
    assert children() <= before


def test_plain_script_without_main_guard(tmp_path: Path) -> None:
    """Workers must not run the user's script again, and must reach a data set that is defined in it."""
    script = """
        import numpy as np
        from guard.data import load, pixels
        from guard.data.forms import torch_dataset
        pixels.SMALL_SIDE = pixels.IN_MEMORY_BYTES = torch_dataset._KEEP_BYTES = 0
        class Mine:
            def __len__(self): return 40
            def __getitem__(self, i): return np.full((8, 8, 3), i, np.uint8), i % 2
        data = load(Mine(), workers=2)
        print("started")
        print([int(b[:, 0, 0, 0].sum()) for b, _ in data.batches(10)])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["started", "[45, 145, 245, 345]"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_workers_leave_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = """
        import os, sys, numpy as np
        from pathlib import Path
        from guard.data import load, pixels
        pixels.SMALL_SIDE = pixels.IN_MEMORY_BYTES = 0
        data = load((list(np.zeros((200, 9, 9, 3), np.uint8)), [0, 1] * 100), image_size=8, workers=2)
        stream = data.batches(2)
        next(stream)
        print(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(), flush=True)
        sys.stdin.read()
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        workers = parent.stdout.readline().split()
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(pid) for pid in workers):
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_reported(tmp_path: Path, streaming: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = open_form("list", tmp_path, workers=2)
    monkeypatch.setattr("guard.data.decoding.to_input", lambda *_, **__: os._exit(9))
    with pytest.raises(DataError, match="a process that decodes images was killed"):
        list(data.batches(8))


def test_errors_of_a_users_data_set_reach_the_user(streaming: None) -> None:
    class Mine(Pairs):
        broken = False

        def __getitem__(self, index: int) -> tuple[Any, int]:
            if self.broken:
                raise AttributeError("the user's own bug")
            return super().__getitem__(index)

    mine = Mine()
    data = load(mine, preprocess=CONFIG, workers=2)
    mine.broken = True
    with pytest.raises(AttributeError, match="the user's own bug"):
        list(data.batches(8))
