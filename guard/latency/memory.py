"""Memory of one guard in a process of its own: ``python -m guard.latency.memory FILE RUNTIME DEVICE THREADS BATCH``.

Prints by how many MiB the largest resident size grew from the runtime's import to the last of a few runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

RUNS = 3


def memory_mib(path: Path, *, runtime: str, device: str, threads: int | None, batch: int) -> float | None:
    """Of the guard at `path`; None where this system does not tell."""
    try:
        import resource  # noqa: F401  (not on Windows)
    except ImportError:
        return None
    command = [sys.executable, "-m", "guard.latency.memory", str(path), runtime, device, str(threads or 0), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def grown(path: Path, runtime: str, device: str, threads: int | None, batch: int) -> float:
    """MiB, in this process."""
    from ..artefact.load import load, manifest_of

    p = manifest_of(path).preprocess
    _import(path, runtime)
    before = _peak_mib()
    runner = load(path, runtime=runtime, device=device, threads=threads).runtime
    images = np.zeros((batch, p.height, p.width, p.channels), np.uint8)
    for _ in range(RUNS):
        runner.run(images)
    return _peak_mib() - before


def _import(path: Path, runtime: str) -> None:
    """The runtime's own libraries, which every model shares."""
    if path.is_dir():
        import torch  # noqa: F401
    elif runtime == "openvino":
        import openvino  # noqa: F401
    elif path.suffix == ".onnx" and runtime != "tensorrt":
        import onnxruntime  # noqa: F401


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent process had, too
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes


if __name__ == "__main__":
    file, runtime_name, device_name, thread_count, batch_size = sys.argv[1:]
    print(grown(Path(file), runtime_name, device_name, int(thread_count) or None, int(batch_size)))
