"""Shards -> verdicts, in the order given, as tasks of a Ray cluster: pieces of shards, so that all nodes end together.

A task opens the guard's file, reads and decodes its own images, and gives their verdicts back; the files are written
here, whole or absent, as by every other scan. A task whose process or node ends is done again elsewhere, so nothing is
lost, and nothing is written twice. An exported file needs no torch on any node.

Every node needs ood-guard, the guard's file and the images under the same paths, or images at a URL.
"""

from __future__ import annotations

import collections
import functools
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cores import available_cores
from ..data.decoding import decode_items
from ..detector import Guard
from ..errors import ConfigError, DataError, GuardError, MissingExtraError, RuntimeUnavailableError
from .plan import Shard
from .processes import Job
from .reading import Reading
from .scoring import Scored, verdicts_of
from .worker import opened_job

_RETRIES = 3  # of a task whose process ended
_PIECE = 512  # images of a task
_AHEAD = 3  # tasks given to a core before the oldest answer is waited for
_CONNECT_S = 5.0
_PROBE_S = 60.0  # an import and a connection; seconds, and more on a busy machine
_ADDRESSES = "a head node's host:6379, auto (the cluster of this machine) or local (starts one here)"


@dataclass(frozen=True)
class Task:
    """What every node is told: `job` as a process of this machine is, the images of a run, and the folder or file that
    the data is in ("" where it is none)."""

    job: Job
    batch_size: int
    root: str


def ray_package() -> Any:
    """Raises: MissingExtraError: it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray, which scans on a cluster,", "ray") from error
    return ray


def scored_on_ray(
    address: str, task: Task, source: Reading, shards: Sequence[Shard], *, workers: int | None
) -> Generator[Scored, None, None]:
    """The verdicts of each group of each shard.

    Args:
        address: of the cluster. workers: processes of one that is started here; default one per core.

    Raises:
        MissingExtraError, RuntimeUnavailableError: as `connected`.
        DataError: a task failed, or its process ended `_RETRIES` + 1 times.
        GuardError: what a task raised.
    """
    with connected(address, workers) as ray:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(score_piece)
        shared = [ray.put(source)]  # in a list, so that a process fetches it once and not for every task
        ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: collections.deque[tuple[Shard, Any]] = collections.deque()
        for piece in (piece for shard in shards for piece in pieces(shard, task.batch_size)):
            if len(waiting) >= ahead:
                yield from _answer(ray, *waiting.popleft())
            waiting.append((piece, remote.remote(task, shared, piece)))
        while waiting:
            yield from _answer(ray, *waiting.popleft())


def pieces(shard: Shard, batch_size: int) -> Iterator[Shard]:
    """The shard in parts of whole batches, of about `_PIECE` images."""
    size = batch_size * max(1, _PIECE // batch_size)
    for start in range(shard.start, shard.stop, size):
        yield Shard(shard.name, start, min(start + size, shard.stop))


@contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """ray, connected until the end; a connection that the caller has made is used, and kept.

    Raises:
        MissingExtraError: ray is not installed.
        RuntimeUnavailableError: no cluster is at the address, or one of another version.
    """
    ray = ray_package()
    if ray.is_initialized():
        yield ray
        return
    asked: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        asked |= {"num_cpus": workers or available_cores(), "include_dashboard": False}
    else:
        _check_listens(address)
        _check_is_ray(address)
    try:
        ray.init(**asked)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: by version and kind of address
        raise _unreachable(address, " ".join(str(error).split())[:300]) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """Ray itself waits for minutes.

    Raises:
        ConfigError: it is not an address.
        RuntimeUnavailableError: nothing listens there.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (host and "/" not in host and colon and port.isdecimal() and int(port) < 2**16):
        raise ConfigError(f"ray must be {_ADDRESSES}, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _check_is_ray(address: str) -> None:
    """Connect in a process that can be ended: to what is not Ray, it tries for minutes, and may end the process.

    Raises:
        RuntimeUnavailableError: it cannot, or not in time.
    """
    code = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='error'); ray.shutdown()"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, address], capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"something listens, and does not answer within {_PROBE_S:g} s") from None
    if "AuthenticationError" in done.stderr:
        raise _unreachable(address, "it asks for a token, which Ray reads where RAY_AUTH_MODE=token is set")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _unreachable(address, lines[-1][:300] if lines else f"exit code {done.returncode}")


def _unreachable(address: str, why: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"no Ray cluster answers at {address!r} ({why}); start one with 'ray start --head', of the version that is "
        f"installed here; accepted: {_ADDRESSES}"
    )


def _answer(ray: Any, piece: Shard, asked: Any) -> list[Scored]:
    rows = f"the images {piece.start} to {piece.stop - 1}"
    kept = "what is done is kept, and the same scan goes on from there"
    try:
        found = ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        why = " ".join(str(error.cause or error).split())[-300:]
        raise DataError(
            f"a Ray task failed at {rows} ({why}); every node needs this version of ood-guard, and the same paths; "
            f"{kept}"
        ) from error
    except ray.exceptions.RayError as error:
        raise DataError(
            f"the process of a Ray task ended {_RETRIES + 1} times at {rows} ({type(error).__name__}; out of memory?); "
            f"use a smaller batch_size; {kept}"
        ) from error
    if isinstance(found, GuardError):
        raise found
    return found  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------- on a node


def score_piece(task: Task, shared: list[Any], piece: Shard) -> list[Scored] | GuardError:
    """As `verdicts_of_piece`; `shared` holds Ray's reference to the data set."""
    return verdicts_of_piece(task, _fetched(shared[0]), piece)


@functools.lru_cache(1)
def _fetched(reference: Any) -> Reading:
    return ray_package().get(reference)  # type: ignore[no-any-return]


def verdicts_of_piece(task: Task, source: Reading, piece: Shard) -> list[Scored] | GuardError:
    """The verdicts of each group of a piece; or what went wrong, where the user can mend it."""
    try:
        for path in (str(task.job.path), task.root):
            if path and not os.path.exists(path):
                raise DataError(
                    f"{path} is not on the Ray node {socket.gethostname()}; every node needs the guard and the images "
                    "under the same paths (a shared file system), or images at a URL"
                )
        g = _opened(task.job)
        found = []
        for rows in piece.groups(task.batch_size):
            decoded = decode_items(source.items(rows), g.manifest.preprocess, task.job.max_pixels)
            found.append(verdicts_of(g, decoded, None if source.labels is None else source.labels[rows]))
        return found
    except GuardError as error:
        return GuardError(str(error))


@functools.lru_cache(1)  # a process does many tasks
def _opened(job: Job) -> Guard:
    return opened_job(job)


def root_of(data: Any) -> str:
    """The folder or file that the data is in, as every node must have it; "" for a URL, or images in memory."""
    local = isinstance(data, (str, os.PathLike)) and os.path.exists(data)
    return str(Path(data).resolve()) if local else ""
