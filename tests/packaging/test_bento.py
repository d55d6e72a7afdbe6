"""`bentoml build` from docs/deploy/bentofile.yaml, and the bento answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from guard.artefact.files import write_onnx
from tests.serving.conftest import colour_graph, colour_manifest, encoded

ROOT = Path(__file__).parents[2]
BENTOML = [sys.executable, "-m", "bentoml"]


@pytest.mark.slow
def test_a_bento_is_built_and_runs_elsewhere(tmp_path: Path) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for name in ("guard", "serving"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "runs" / "latest").mkdir(parents=True)
    elsewhere.mkdir()
    write_onnx(checkout / "runs" / "latest" / "guard.onnx", colour_graph(), colour_manifest())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GUARD_", "PYTHONPATH"))}
    environment |= {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "true"}
    build = [*BENTOML, "build", "-f", str(ROOT / "docs" / "deploy" / "bentofile.yaml"), "-o", "tag", str(checkout)]
    built = subprocess.run(build, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.rmtree(checkout)  # it stands on its own
    serve = [*BENTOML, "serve", "ood-guard:latest", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(serve, cwd=elsewhere, env=environment, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            _wait(client, process)
            answer = client.post("/predict", content=encoded((255, 0, 0))).json()
            assert answer["class_name"] == "red"
            assert client.get("/ui").status_code == 200
    finally:
        process.terminate()
        process.wait(30)


def _wait(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
