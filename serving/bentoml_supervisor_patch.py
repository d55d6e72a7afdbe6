"""BentoML's supervisor, but for two of its habits.

A worker that died is started again at once and not up to ten seconds later: the supervisor looks every second. And
SIGHUP is a rolling update of the guard (`reload.py`): by default it starts new workers in place of the old ones,
which stops the whole service where the new guard is damaged. Where BentoML or circus no longer have what is changed
here, they are left as they are.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

from .check import HOME

LOOK_MS = 1000.0
_reloading: list[subprocess.Popen[bytes]] = []


def supervise() -> bool:
    """Change both, in this process; returns whether there was what is changed."""
    arbiter: Any = getattr(importlib.import_module("bentoml._internal.utils.circus"), "Arbiter", None)
    handler: Any = getattr(importlib.import_module("circus.sighandler"), "SysHandler", None)
    if not (hasattr(arbiter, "start") and hasattr(handler, "handle_hup")):
        return False
    if arbiter.start.__name__ != "start_looking_often":
        arbiter.start = _looking_often(arbiter.start)
        handler.handle_hup = lambda _: reload_all()
    return True


def _looking_often(start: Any) -> Any:
    def start_looking_often(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(getattr(self, "ctrl", None), "check_delay"):
            self.ctrl.check_delay = LOOK_MS
        return start(self, *args, **kwargs)

    return start_looking_often


def reload_all() -> None:
    """Begin `python -m serving.reload`, unless one is under way."""
    _reloading[:] = [process for process in _reloading if process.poll() is None]
    if not _reloading:
        _reloading.append(subprocess.Popen([sys.executable, "-m", "serving.reload"], cwd=HOME))
