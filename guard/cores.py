"""The cores that this process may use: its affinity mask, and its container's CPU quota where it has one.

A container started with ``--cpus=1`` on a machine of 64 cores sees all 64 in its mask. As many threads as that stop
each other: once the quota of a period (100 ms) is used up, all of them stand still until the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Processors that this process can keep busy; at least 1.

    A quota's fraction is left free: three threads on 2.5 processors would stand still for a sixth of the time.
    """
    quota = cpu_quota()
    allowed = _affinity()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def limited_cores() -> int | None:
    """`available_cores` where a quota or an affinity mask leaves fewer than the machine has; else None."""
    cores = available_cores()
    return cores if cores < (os.cpu_count() or 1) else None


def cpu_quota() -> float | None:
    """Processors' worth of time that the process's control groups grant; None where nothing limits it.

    The smallest of the group's own limit and those above it: ``cpu.max`` in version 2 of control groups,
    ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` in version 1.
    """
    limits = [limit for folder in _groups() if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups() -> Iterator[Path]:
    """The folders of the control groups that hold this process, and of those above.

    Inside a container the mount often shows the container's own group as its root, under another path than /proc names.
    """
    yield _MOUNT
    try:
        lines = _PROC.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (_MOUNT / controllers, _MOUNT / "cpu") if controllers else (_MOUNT,):
            group = mount / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _limit(folder: Path) -> float | None:
    try:
        if (newer := folder / "cpu.max").exists():
            quota, period = newer.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota = (folder / "cpu.cfs_quota_us").read_text()
        return None if int(quota) <= 0 else int(quota) / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):  # not a group of this kind
        return None
