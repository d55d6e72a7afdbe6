"""Which artefacts all workers serve: a folder of the service's own with a copy of each, and one file that names them.

    <folder>/serving.json            {"generation": 3, "models": {"guard": {"path": ..., "identity": ...}}}
    <folder>/3-guard/guard.onnx      the copy: whatever happens to the source meanwhile, also a worker that is started
                                     again serves what was verified
    <folder>/worker-<pid>.json       the generation that this worker serves
    <folder>/metrics, drift          what the workers count

The supervisor makes the folder and hands it to its workers in the environment; each looks at the file twice a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guard.artefact.files import FOLDER_MANIFEST, FOLDER_WEIGHTS, engine_manifest_path, engine_source_path, write_atomic
from guard.errors import ArtefactDamagedError, ArtefactNotFoundError
from guard.record import Record

FOLDER = "OOD_GUARD_CONTROL"  # environment variable
FAILED = "failed"  # in the folder: a worker could not start, and stopped the service
POLL_S = 0.5


class Served(Record):
    """One model of a generation.

    Attributes:
        path: the service's own copy.
        identity: of what was verified there.
        source: what it is a copy of.
    """

    path: Path
    identity: str
    source: Path


class Generation(Record):
    """What is served since the last change; 0 at the start."""

    generation: int = 0
    models: dict[str, Served] = {}


class Control:
    """The folder; the environment's by default, made where it names none."""

    def __init__(self, folder: Path | None = None) -> None:
        named = folder or os.environ.get(FOLDER)
        self._own = None if named else tempfile.TemporaryDirectory(prefix="ood-guard-")
        self.folder = Path(named or self._own.name)  # type: ignore[union-attr]

    @property
    def _file(self) -> Path:
        return self.folder / "serving.json"

    def read(self) -> Generation:
        """What is served now."""
        try:
            return Generation.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return Generation()

    def changed_ns(self) -> int:
        """When that changed last; 0 for never."""
        try:
            return self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One change at a time, over all workers."""
        import fcntl  # not on every system that can import the service

        with open(self.folder / "lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def copy(self, name: str, source: Path) -> Path:
        """A copy of the artefact `source` for the next generation; needs `changing`."""
        folder = self.folder / f"{self.read().generation + 1}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if not source.exists():
            raise ArtefactNotFoundError(
                f"no such guard: {source}; accepted: a .onnx file, a .engine file or a run folder "
                "(make one with guard.train, or: guard demo)"
            )
        if source.is_dir():
            return _run_folder_copied(source, folder / (source.name or name))
        for beside in (engine_manifest_path(source), engine_source_path(source)):  # of a .engine file
            if beside.exists():
                shutil.copy(beside, folder)
        return Path(shutil.copy(source, folder))

    def publish(self, name: str, served: Served) -> Generation:
        """Let every worker serve it; needs `changing`. Copies that nobody can be loading any more are removed."""
        before = self.read()
        after = Generation(generation=before.generation + 1, models={**before.models, name: served})
        write_atomic(self._file, after.model_dump_json(indent=1).encode())
        kept = {served.path.parent for served in [*before.models.values(), *after.models.values()]}
        for folder in self.folder.glob(f"*-{name}"):
            if folder.is_dir() and folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return after

    def report(self, generation: int, error: str | None = None) -> None:
        """Say that this worker serves that generation, or why it does not."""
        text = json.dumps({"generation": generation, "error": error})
        write_atomic(self.folder / f"worker-{os.getpid()}.json", text.encode())

    def reports(self) -> dict[int, tuple[int, str | None]]:
        """Of the workers that live: process id -> (generation, error)."""
        found = {}
        for file in self.folder.glob("worker-*.json"):
            pid = int(file.stem.partition("-")[2])
            try:
                os.kill(pid, 0)
                content = json.loads(file.read_bytes())
            except (ProcessLookupError, FileNotFoundError):
                file.unlink(missing_ok=True)
                continue
            found[pid] = (content["generation"], content["error"])
        return found

    async def reached(self, generation: int, timeout_s: float) -> dict[int, tuple[int, str | None]]:
        """`reports`, once every living worker has got to `generation`, or `timeout_s` is over."""

        async def all_there() -> None:
            while any(got < generation for got, _ in self.reports().values()):
                await asyncio.sleep(POLL_S / 5)

        with suppress(TimeoutError):
            await asyncio.wait_for(all_there(), timeout_s)
        return self.reports()


def _run_folder_copied(source: Path, target: Path) -> Path:
    """The guard of a run folder, without its checkpoints."""
    if not (source / FOLDER_MANIFEST).is_file():
        raise ArtefactDamagedError(f"{source} is not a run folder: it has no {FOLDER_MANIFEST}")
    target.mkdir()
    for name in (FOLDER_MANIFEST, FOLDER_WEIGHTS):
        shutil.copy(source / name, target)
    return target
