"""A scan on a Ray cluster gives what a scan in local processes gives; without a cluster it says so, and soon."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import guard
from guard import cli
from guard.data.loading import opened_source
from guard.errors import ConfigError, GuardError, MissingExtraError, RuntimeUnavailableError
from guard.manifest import Manifest
from guard.scanning import cluster, scan
from guard.scanning.plan import Shard
from guard.scanning.processes import Job
from guard.scanning.reading import Reading
from tests.guard.scanning.conftest import SMALL, rows_of


def _photographs(root: Path, count: int) -> Path:
    """That take a while to decode."""
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    for i in range(count):
        pixels[..., i % 3] //= 2
        Image.fromarray(pixels).resize((1600, 1200)).save(root / f"{i:02d}.jpg", quality=80)
    return root


class Killer(threading.Thread):
    """Ends one of this process's Ray workers by its pid, once the first file is there and the worker is at a task."""

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self.out, self.killed = out, 0

    def run(self) -> None:
        import psutil

        until = time.monotonic() + 120
        while not self.killed and time.monotonic() < until:
            time.sleep(0.005)
            if not (self.out / "part-00000.parquet").exists():
                continue
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.cmdline()[:1] == ["ray::score_piece"]:
                        process.kill()
                        self.killed = process.pid
                        return


@pytest.mark.slow  # Ray takes ten seconds to start, and more where the machine is busy
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_local_cluster_of_two_loses_and_doubles_nothing_when_one_is_killed(colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    data, killer = _photographs(tmp_path / "photos", 60), Killer(tmp_path / "ray")
    killer.start()
    found = guard.scan(colours, data, out=tmp_path / "ray", ray="local", workers=2, **{**SMALL, "shard_size": 5})
    killer.join()
    assert killer.killed
    assert len(list((tmp_path / "ray").glob("part-*"))) == 12
    guard.scan(colours, data, out=tmp_path / "here", workers=0, **{**SMALL, "shard_size": 5})
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "here")
    assert [row["row"] for row in rows_of(tmp_path / "ray")] == list(range(60))
    assert (found.made, found.images, found.scored) == (12, 60, 60)


# -------------------------------------------------------------------------------------------------------- without Ray


class Ray:
    """What `cluster` uses of the package, in this process; `fails` is raised in place of every answer."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails, self.most, self.left, self.fetched = fails, 0, 0, 0
        self.exceptions = type("E", (), {"RayError": RayError, "RayTaskError": RayTaskError})
        self.asked: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **asked: Any) -> None:
        self.asked = asked

    def shutdown(self) -> None:
        self.asked["ended"] = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def put(self, value: Any) -> Any:
        return Put(value)

    def remote(self, **_: Any) -> Any:
        def task(function: Any) -> Any:
            def asked(*arguments: Any) -> Any:
                self.left += 1
                self.most = max(self.most, self.left)
                return lambda: function(*arguments)

            return type("Remote", (), {"remote": staticmethod(asked)})

        return task

    def get(self, asked: Any) -> Any:
        if isinstance(asked, Put):
            self.fetched += 1
            return asked.value
        self.left -= 1
        if self.fails is not None:
            raise self.fails
        return asked()


class Put:
    """A reference."""

    def __init__(self, value: Any) -> None:
        self.value = value


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause = OSError("no module named guard")


def test_shards_are_tasks_and_their_files_those_of_a_local_scan(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Ray()
    monkeypatch.setattr(cluster, "ray_package", lambda: ray)
    monkeypatch.setattr(scan, "ray_package", lambda: ray)
    asked = {"labelled": True, "workers": 3, **SMALL}
    found = guard.scan(colours, folder, out=tmp_path / "ray", ray="local", **asked)
    guard.scan(colours, folder, out=tmp_path / "here", **asked)
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "here")
    assert found.made == 5
    assert ray.asked["num_cpus"] == 3
    assert ray.asked["ended"]
    assert ray.most == 3  # for one CPU, however many shards
    assert ray.fetched == 1  # by one process


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (RayTaskError(), r"at the images 0 to 19 \(no module named guard\); every node needs this version"),
        (RayError(), r"ended 4 times at the images 0 to 19 .* the same scan goes on from there"),
    ],
)
def test_a_task_that_fails_is_said_in_a_sentence(
    fails: Exception, message: str, colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Ray(fails)
    monkeypatch.setattr(cluster, "ray_package", lambda: ray)
    monkeypatch.setattr(scan, "ray_package", lambda: ray)
    with pytest.raises(GuardError, match=message):
        guard.scan(colours, folder, out=tmp_path / "ray", ray="local", **SMALL)
    assert ray.asked["ended"]


def test_a_node_without_the_images_says_so(colours: Path, folder: Path, tmp_path: Path) -> None:
    """In place of a data set of corrupt images."""
    manifest: Manifest = guard.load(colours, device="cpu").manifest
    source = Reading(opened_source(folder, False, None, all_classes=False))
    job = Job(colours, manifest.model_dump_json(), "onnxruntime", 10**8)
    shard = Shard("part-00000.parquet", 0, 20)
    here = cluster.verdicts_of_piece(cluster.Task(job, 8, str(folder)), source, shard)
    assert isinstance(here, list)
    assert [part.count for part in here] == [8, 8, 4]
    there = cluster.verdicts_of_piece(cluster.Task(job, 8, str(tmp_path / "elsewhere")), source, shard)
    assert isinstance(there, GuardError)
    assert "elsewhere is not on the Ray node" in str(there)
    other = manifest.model_copy(update={"name": "other"}).model_dump_json()
    task = cluster.Task(Job(colours, other, "x", 1), 8, "")
    assert isinstance(cluster.verdicts_of_piece(task, source, shard), GuardError)


@pytest.mark.parametrize(("start", "stop", "batch"), [(0, 4096, 64), (4096, 5000, 64), (0, 10, 64), (7, 5000, 700)])
def test_the_pieces_of_a_shard_are_its_batches_in_order(start: int, stop: int, batch: int) -> None:
    shard = Shard("part-00000.parquet", start, stop)
    pieces = list(cluster.pieces(shard, batch))
    assert max(map(len, pieces)) <= max(batch, cluster._PIECE)
    found = [rows.tolist() for piece in pieces for rows in piece.groups(batch)]
    assert found == [rows.tolist() for rows in shard.groups(batch)]


def test_an_address_where_nothing_is_is_refused_soon(colours: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    begun = time.perf_counter()
    with pytest.raises(
        RuntimeUnavailableError, match=f"no Ray cluster answers at '127.0.0.1:{port}' .*ray start --head"
    ):
        guard.scan(colours, folder, out=tmp_path / "out", ray=f"127.0.0.1:{port}", **SMALL)
    assert time.perf_counter() - begun < 60
    for address in ("cluster", "127.0.0.1:99999", "ray://127.0.0.1:10001"):
        with pytest.raises(ConfigError, match=f"ray must be a head node's host:6379, .* got '{address}'"):
            guard.scan(colours, folder, out=tmp_path / "out", ray=address, **SMALL)
    assert list((tmp_path / "out").glob("part-*")) == []


def test_a_port_of_something_else_is_refused_in_time(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for minutes."""
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "_PROBE_S", 3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RuntimeUnavailableError, match="something listens, and does not answer within 3 s"):
            guard.scan(colours, folder, out=tmp_path / "out", ray=address, **SMALL)


def test_without_the_package_the_extra_is_named(
    colours: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray, which scans on a cluster, .*ood-guard\[ray\]"):
        guard.scan(colours, folder, out=tmp_path / "out", ray="local")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as end:
        cli.main(["scan", str(colours), str(folder), "--out", str(tmp_path / "out"), "--ray", "local"])
    assert end.value.code == 2
    assert "ood-guard[ray]" in capsys.readouterr().err


def test_a_guard_that_no_node_can_open_is_refused(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "ray_package", lambda: None)
    g = guard.load(colours, device="cpu")
    g.path = None
    with pytest.raises(ConfigError, match="ray= needs a guard that every node can open"):
        guard.scan(g, folder, out=tmp_path / "out", ray="local", **SMALL)
    with pytest.raises(ConfigError, match="ray= scores on CPUs, got device='cuda'"):
        guard.scan(colours, folder, out=tmp_path / "out", ray="local", device="cuda")
