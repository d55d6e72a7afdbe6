"""`svc`, the BentoML service: settings from the environment, one check before any worker starts, our app mounted.

    bentoml serve serving:svc
      supervisor: import this -> on_deployment: `python -m serving.check` loads and scores once; else a sentence, exit
      workers:    import this -> the app's lifespan loads the guard

BentoML's supervisor starts a worker that died again and for ever, also when it can never live. So a guard that cannot
be served ends the supervisor before there are workers; and should the file be damaged while the service runs, the
worker that cannot come back stops the service, which ends with 2.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import bentoml
from bentoml._internal.context import server_context

from guard.errors import GuardError

from . import logs
from .app import App
from .bentoml_supervisor_patch import supervise
from .bentoml_timeout_patch import cancel_finished_timers
from .check import verify_in_own_process
from .control import FAILED, FOLDER
from .drift_tests import share_drift_state
from .front import put_before
from .settings import read_settings

logger = logging.getLogger("guard.serving")

#: Open requests per image that may be in work: most of them are uploading, and those are cheap.
_OPEN_REQUESTS = 8

try:
    _settings = read_settings()
except GuardError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

logger.setLevel(logging.INFO)
logs.access.setLevel(logging.INFO)
if _settings.log == "json":
    logs.use_json()
cancel_finished_timers()


def _stop_service(error: Exception) -> None:
    """In a worker whose guard cannot be loaded: say so once and stop the supervisor, which would start us for ever."""
    if server_context.worker_index is None:  # not one of BentoML's workers: the parent is somebody else's
        return
    ours = isinstance(error, GuardError)
    logger.error("the service stops, its guard cannot be loaded: %s", error, exc_info=None if ours else error)
    logging.shutdown()
    Path(os.environ[FOLDER], FAILED).touch()
    os.kill(os.getppid(), signal.SIGTERM)
    os._exit(2)  # at once: nothing has begun, and an exception here would be three tracebacks


_app = App(_settings, on_start_failure=_stop_service)


@bentoml.asgi_app(_app.asgi, path="/")
@bentoml.service(
    name="ood-guard",
    workers=_settings.workers,
    traffic={
        # the app answers first, in a sentence; this is the second line
        "timeout": _settings.timeout_s + 5,
        "max_concurrency": _OPEN_REQUESTS * _settings.max_concurrency * _settings.workers,
    },
    http={"host": _settings.host},
    metrics={"enabled": False},  # see metrics.py
    logging={"access": {"enabled": False}},  # the app writes its own, see logs.py
)
class svc:
    """An image classifier that knows what it was not taught."""

    @bentoml.on_deployment
    def _verify() -> None:
        """Once, in the supervisor, before workers start."""
        folder = Path(os.environ.get(FOLDER) or tempfile.mkdtemp(prefix="ood-guard-"))
        if FOLDER not in os.environ:  # `guard serve` makes it, and removes it, whatever becomes of us
            os.environ[FOLDER] = str(folder)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(_end_as_failed, folder)  # the last that is registered is the first to run
        verify_in_own_process(_settings)
        share_drift_state(_settings, folder / "drift")
        supervise()


def _end_as_failed(folder: Path) -> None:
    """In the supervisor, which BentoML ends with 0 however it was stopped: whoever started it may start it again."""
    if (folder / FAILED).exists():
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


put_before(svc, _app, _OPEN_REQUESTS * _settings.max_concurrency)
