"""Cores: the affinity mask and a control group's quota, of both versions, from fake files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guard import cores
from guard.cores import available_cores, cpu_quota

Fake = dict[str, str]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores, whose control groups a test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "cgroup")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc").write_text("0::/\n")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 64), ("100000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 64)],
)
def test_version_2(groups: Path, limit: str, expected: int) -> None:
    write(groups / "cgroup", cpu_dot_max=limit)
    assert available_cores() == expected


def test_version_1(groups: Path) -> None:
    (groups / "proc").write_text("4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n")
    assert cpu_quota() is None
    write(groups / "cgroup/cpu,cpuacct/docker/abc", cpu_dot_cfs_quota_us="300000", cpu_dot_cfs_period_us="100000")
    assert available_cores() == 3
    write(groups / "cgroup/cpu,cpuacct/docker/abc", cpu_dot_cfs_quota_us="-1")
    assert available_cores() == 64


def test_the_smallest_limit_on_the_way_up_counts(groups: Path) -> None:
    (groups / "proc").write_text("0::/system.slice/app.service\n")
    write(groups / "cgroup/system.slice/app.service", cpu_dot_max="max 100000")
    write(groups / "cgroup/system.slice", cpu_dot_max="200000 100000")
    write(groups / "cgroup", cpu_dot_max="400000 100000")
    assert cpu_quota() == 2.0


def test_the_mask_counts_where_it_is_smaller(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    write(groups / "cgroup", cpu_dot_max="400000 100000")
    assert available_cores() == 2


@pytest.mark.parametrize("text", ["", "max", "0 0", "many 100000"])
def test_what_cannot_be_read_limits_nothing(groups: Path, text: str) -> None:
    write(groups / "cgroup", cpu_dot_max=text)
    assert available_cores() == 64


def test_no_linux(groups: Path) -> None:
    (groups / "proc").unlink()
    assert available_cores() == 64


def test_a_quota_of_one_gives_one_thread_everywhere(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from guard.runtimes import onnx_session
    from guard.twins import twin
    from serving.settings import Settings
    from train.engine.threads import paced

    write(groups / "cgroup", cpu_dot_max="100000 100000")
    assert Settings().worker_threads == 1

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    with paced(None, torch.device("cpu")):
        assert used == [1]
    assert used == [1, 64]

    seen = {}

    class Session:
        def __init__(self, _: object, options: object, providers: list[str]) -> None:
            seen["threads"] = options.intra_op_num_threads  # type: ignore[attr-defined]

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(twin("onnxruntime"), "InferenceSession", Session)
    onnx_session.open_session(b"", device="cpu")
    assert seen == {"threads": 1}


def test_decoding_takes_a_process_per_available_core(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.data import loading

    write(groups / "cgroup", cpu_dot_max="100000 100000")
    assert loading.available_cores() == 1  # what decides the default of workers=


def test_nothing_else_counts_cores() -> None:
    """Another count would not know the quota."""
    root = Path(cores.__file__).parents[1]
    counting = [
        str(path.relative_to(root))
        for folder in ("guard", "train", "export", "serving", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if any(word in path.read_text() for word in ("sched_getaffinity", "cpu_count"))
    ]
    assert counting == ["guard/cores.py"]
