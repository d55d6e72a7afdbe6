"""Starting and stopping: mistakes end in one sentence within seconds, and the right `serving` is served."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

import serving
from guard.errors import ArtefactNotFoundError, ConfigError, RuntimeUnavailableError
from serving.check import HOME
from serving.runner import _stop, running_service, serve
from tests.serving.answers import RED, Encode

BENTOML = [sys.executable, "-m", "bentoml", "serve", "serving:svc"]


def served(model: Path | None, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`bentoml serve serving:svc` where it must end by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
    environment |= {"BENTOML_HOME": str(cwd / "home"), "BENTOML_DO_NOT_TRACK": "true", "PYTHONPATH": str(HOME), **env}
    if model is not None:
        environment["GUARD_MODEL"] = str(model)
    return subprocess.run(
        [*BENTOML, "--port", "0"], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def one_sentence(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_importing_serving_needs_no_model_and_no_bentoml() -> None:
    code = "import sys, serving, serving.settings, serving.schemas; print('bentoml' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        serving.nonsense  # noqa: B018


def test_no_model(tmp_path: Path) -> None:
    sentence = one_sentence(served(None, tmp_path))
    assert "GUARD_MODEL is not set and there is no runs/latest/guard.onnx" in sentence
    assert "guard demo" in sentence


def test_a_missing_model(tmp_path: Path) -> None:
    assert f"no such guard: {tmp_path / 'none.onnx'}" in one_sentence(served(tmp_path / "none.onnx", tmp_path))


def test_a_damaged_model_ends_the_service_before_there_are_workers(colour_guard: Path, tmp_path: Path) -> None:
    data = bytearray(colour_guard.read_bytes())
    data[300] ^= 1
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(data)
    assert "was changed after it was written (its SHA-256 differs)" in one_sentence(served(damaged, tmp_path))


def test_a_wrong_setting(colour_guard: Path, tmp_path: Path) -> None:
    assert "GUARD_BATCH_SIZE=0 is not accepted" in one_sentence(served(colour_guard, tmp_path, GUARD_BATCH_SIZE="0"))


def test_a_worker_that_can_no_longer_load_its_guard_ends_the_service(
    write_guard: Callable[..., Path], tmp_path: Path
) -> None:
    """BentoML's supervisor would start it again for ever."""
    model = write_guard(tmp_path / "guard.onnx")
    with running_service(model, env={"GUARD_MAX_BATCH_IMAGES": "1"}) as base:
        (supervisor,) = [p for p in psutil.Process().children() if base.rpartition(":")[2] in p.cmdline()]
        (worker,) = [p for p in supervisor.children() if "_bentoml_impl.worker.service" in p.cmdline()]
        (copy,) = Path(worker.environ()["OOD_GUARD_CONTROL"]).glob("*/guard.onnx")
        copy.write_bytes(copy.read_bytes()[:-10])
        worker.kill()
        assert supervisor.wait(60) == 2  # to whatever runs it, 0 would mean that somebody stopped it


def test_a_second_service_leaves_the_counts_of_the_first_alone(
    colour_guard: Path, encode: Encode, tmp_path: Path
) -> None:
    """BentoML empties its metrics folder, one for all services of a user, whenever one starts."""
    with running_service(colour_guard, env={"BENTOML_HOME": str(tmp_path / "home")}) as base:
        for count in (1, 2):
            assert httpx.post(f"{base}/predict", content=encode(RED), trust_env=False).status_code == 200
            counted = httpx.get(f"{base}/metrics", trust_env=False).text
            assert f'guard_images_total{{model="guard",verdict="accepted"}} {count}.0' in counted
            assert served(tmp_path / "none.onnx", tmp_path).returncode == 2


def test_a_folder_for_flagged_images_that_cannot_be_made_ends_the_service(colour_guard: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    there = str(tmp_path / "file" / "kept")
    assert f"GUARD_KEEP_FLAGGED={there} cannot be written to" in one_sentence(
        served(colour_guard, tmp_path, GUARD_KEEP_FLAGGED=there)
    )


def test_workers_that_their_supervisor_leaves_behind_are_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("serving.runner.STOP_S", 0.5)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", deaf]
    supervisor, worker = (
        subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    for process in (supervisor, worker):
        assert process.stdout is not None
        process.stdout.readline()
    (tmp_path / f"worker-{worker.pid}.json").write_text('{"generation": 1, "error": null}')
    _stop(supervisor, tmp_path)
    assert (supervisor.wait(5), worker.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_a_service_takes_its_folder_with_it(colour_guard: Path) -> None:
    with running_service(colour_guard) as base:
        (supervisor,) = [p for p in psutil.Process().children() if base.rpartition(":")[2] in p.cmdline()]
        folder = Path(supervisor.environ()["OOD_GUARD_CONTROL"])
        assert (folder / "metrics").is_dir()
        assert (folder / "drift").is_dir()
    assert not folder.exists()


def test_a_users_own_files_do_not_shadow_ours_and_relative_paths_are_the_users(
    write_guard: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("serving", "guard", "bentoml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    write_guard(tmp_path / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    with running_service("mine.onnx") as base:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{base}/model", timeout=10) as answer:
            assert b"colours@" in answer.read()
        (supervisor,) = [p for p in psutil.Process().children() if base.rpartition(":")[2] in p.cmdline()]
        family = [supervisor, *supervisor.children(recursive=True)]
    assert [process for process in family if process.is_running()] == []


def test_guard_serve_finds_our_runner_beside_a_users_serving_py(tmp_path: Path) -> None:
    (tmp_path / "serving.py").write_text("raise SystemExit('the wrong file')")
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    command = [sys.executable, "-m", "guard", "serve", "nothing.onnx", "--port", str(free_port())]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "no such guard" in ended.stderr + ended.stdout


def test_guard_serve_stops_when_it_is_terminated(colour_guard: Path, tmp_path: Path) -> None:
    port = free_port()
    code = f"from serving.runner import serve; raise SystemExit(serve({str(colour_guard)!r}, port={port}))"
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=HOME, env=environment, stderr=subprocess.PIPE)
    wait_until_ready(port)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_mistakes_are_exceptions_in_python(colour_guard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUARD_MODEL", raising=False)
    with pytest.raises(ArtefactNotFoundError, match="guard demo"):
        serve()
    with pytest.raises(ConfigError, match="port must be between 1 and 65535, got 70000"):
        serve(colour_guard, port=70000)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1 port 3000"):
        serve(colour_guard, host="192.0.2.1")
    with pytest.raises(ConfigError, match="GUARD_HOST=localhost is not accepted: an IP address is needed"):
        serve(colour_guard, host="localhost")
    with (
        pytest.raises(RuntimeUnavailableError, match="ended with 2; its last words: error: no such guard"),
        running_service(tmp_path / "none.onnx"),
    ):
        pass


@pytest.mark.parametrize(("number", "after_s"), [(signal.SIGTERM, 0.1), (signal.SIGINT, 0.6)])
def test_guard_serve_stops_while_it_starts(colour_guard: Path, tmp_path: Path, number: int, after_s: float) -> None:
    code = f"from serving.runner import serve; raise SystemExit(serve({str(colour_guard)!r}, port={free_port()}))"
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=HOME, env=environment, stderr=subprocess.PIPE)
    while not (family := psutil.Process(process.pid).children(recursive=True)):
        time.sleep(0.02)
    time.sleep(after_s)
    process.send_signal(number)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_a_service_that_loses_the_interrupt_is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch, colour_guard: Path
) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr("serving.runner._command", lambda host, port: [sys.executable, "-c", deaf])
    monkeypatch.setattr("serving.runner.MARGIN_S", 0.3)
    monkeypatch.setenv("GUARD_TIMEOUT_S", "0.2")
    interrupt = threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT])
    interrupt.start()
    began = time.monotonic()
    assert serve(colour_guard, port=free_port()) == 0
    assert time.monotonic() - began < 30


def wait_until_ready(port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while True:
        try:
            opener.open(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
