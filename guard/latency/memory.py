"""Memory of one guard in a process of its own.

It prints by how many MiB the largest resident size grew from the runtime's import to the last of a few runs.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import numpy as np

from ..own_python import own_python

log = logging.getLogger("ood_guard")

RUNS = 3


def memory_mib(path: Path, *, runtime: str, device: str, threads: int | None, batch: int) -> float | None:
    """Of the guard at `path`; None where this system does not tell, or its process did not get so far."""
    try:
        import resource  # noqa: F401  (not on Windows)
    except ImportError:
        return None
    command = own_python("guard.latency.memory", str(path), runtime, device, str(threads or 0), str(batch))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        log.warning("the memory of %s at batch %d was not measured: %s", path.name, batch, last[0])
        return None
    return float(done.stdout.split()[-1])


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


def main(path: str, runtime: str, device: str, threads: str, batch: str) -> None:
    """What the process prints."""
    print(grown(Path(path), runtime, device, int(threads) or None, int(batch)))
