"""Start and stop the service from Python: `serve` is what ``guard serve`` runs; `running_service` is for scripts.

Both start BentoML in the folder that holds *this* package, so that a serving.py (or bentoml.py, guard.py ...) in the
user's folder cannot answer to the name; paths are made absolute before.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from guard.errors import ConfigError, MissingExtraError, RuntimeUnavailableError

from .check import HOME
from .control import FOLDER, Control
from .settings import paths_environment, read_settings

MARGIN_S = 5.0  # beyond what a request may take, until a service that was told to stop is told again
STOP_S = 10.0  # from then on, until it is killed


def serve(
    model: str | Path | None = None,
    *,
    host: str | None = None,
    port: int = 3000,
    workers: int | None = None,
    device: str | None = None,
    log: str | None = None,
    access_log: bool | None = None,
    keep_flagged: str | Path | None = None,
) -> int:
    """Serve a guard until interrupted or terminated. Requests under way are answered first, within GUARD_TIMEOUT_S;
    told a second time, it ends within ten seconds.

    Args:
        model: an .onnx file, an .engine file or a run folder; None for GUARD_MODEL, else runs/latest/guard.onnx.
        host: an IP address to listen on; "0.0.0.0" is reachable from other machines.
        port: 1 .. 65535.
        host, workers, device, log, access_log, keep_flagged: as in `serving.settings`; None leaves the environment's.

    Returns:
        The exit code of the service: 0 when it was told to stop, 2 when it cannot serve the guard (stderr says why).

    Raises:
        ConfigError, ArtefactNotFoundError: a port in use, a bad setting, no guard to serve.
        MissingExtraError: BentoML is not installed.
    """
    given = {"workers": workers, "device": device, "log": log, "access_log": access_log, "keep_flagged": keep_flagged}
    environment = _environment(model, **given)
    settings = read_settings(host=host)
    _check_port(settings.host, port)
    process: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if process is not None:
            process.send_signal(number)
            if number == signal.SIGHUP:  # a rolling update, see reload.py
                return
            # whoever asks a second time does not want to wait for what is under way
            insist = threading.Timer(0 if told else settings.timeout_s + MARGIN_S, _stop, [process, folder])
            insist.daemon = True
            insist.start()
        told.append(number)

    with _control_folder(environment) as folder:
        before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            # a session of its own: an interrupt from the terminal then reaches it once, through us
            command = _command(settings.host, port)
            process = subprocess.Popen(command, cwd=HOME, env=environment, start_new_session=True)
            if told:  # while it was being started
                _stop(process, folder)
            code = process.wait()
            return 0 if told else code  # while it starts up, BentoML dies of the signal
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def running_service(
    model: str | Path | None = None,
    *,
    port: int = 0,
    workers: int | None = None,
    device: str | None = None,
    env: dict[str, str] | None = None,
    timeout_s: float = 60.0,
    log: Path | None = None,
) -> Iterator[str]:
    """A service on 127.0.0.1 for the length of a ``with`` block.

    Args:
        model, workers, device: as in `serve`.
        port: 0 for a free one.
        env: more settings, e.g. ``{"GUARD_MAX_BYTES": "1000000"}``.
        timeout_s: seconds to wait until it is ready.
        log: a file for its output; default one that is deleted with it.

    Yields:
        Its address, ``http://127.0.0.1:<port>``; it answers /readyz with 200 by then.

    Raises:
        RuntimeUnavailableError: it ended or was not ready in time; with the last lines of its log.
    """
    environment = {**_environment(model, workers=workers, device=device), **(env or {})}
    port = port or _free_port()
    _check_port("127.0.0.1", port)
    with _control_folder(environment) as folder, open(log or folder / "log", "w+b") as output:
        process = subprocess.Popen(
            _command("127.0.0.1", port),
            cwd=HOME,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_until_ready(base, process, Path(output.name), timeout_s)
            yield base
        finally:
            _stop(process, folder)


@contextmanager
def _control_folder(environment: dict[str, str]) -> Iterator[Path]:
    """What the processes of a service share, see control.py; goes with it, also where it had to be killed."""
    with tempfile.TemporaryDirectory(prefix="ood-guard-", ignore_cleanup_errors=True) as folder:
        environment[FOLDER] = folder
        yield Path(folder)


def _command(host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "bentoml", "serve", "serving:svc"),
        *("--host", host, "--port", str(port), "--working-dir", str(HOME)),
    ]


def _environment(model: str | Path | None, **given: Any) -> dict[str, str]:
    """The child's environment, checked here so that mistakes are exceptions and not a child's exit code."""
    try:
        import bentoml  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("BentoML", "serve") from error
    if model is not None and os.environ.get("GUARD_MODELS"):
        raise ConfigError(f"GUARD_MODELS is set and {str(model)!r} is given as well; unset one of them")
    settings = read_settings(model=model, **given)
    environment = {**os.environ, **paths_environment(settings)}
    for name in ("workers", "device", "log", "access_log"):
        environment[f"GUARD_{name.upper()}"] = str(getattr(settings, name))
    environment.setdefault("BENTOML_DO_NOT_TRACK", "true")  # BentoML reports its use to its makers by default
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_port(host: str, port: int) -> None:
    """Whether we may listen there; found out by BentoML, it would be a traceback."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"port must be between 1 and 65535, got {port}")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --port, and an IP "
            "address of this machine with --host"
        ) from None


def _wait_until_ready(base: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    # no proxy: the address is this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with opener.open(f"{base}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    tail = log.read_text(errors="replace").strip().splitlines()[-5:]
    state = f"is not ready after {timeout_s:g} s" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeUnavailableError(f"the service {state}; its last words: {' | '.join(tail) or 'none'}")


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the supervisor, which ends its workers; whatever is left after ten seconds is killed: workers are in sessions
    of their own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for worker in Control(folder).reports():
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
