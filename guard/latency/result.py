"""The numbers of ``guard bench``."""

from __future__ import annotations

from typing import Any

from ..record import Record

BARE = "bare classifier"


class LatencyRow(Record):
    """One contender at one batch size.

    Attributes:
        contender: the file's name, or `BARE`. runtime, device, precision: what it ran on, and in.
        batch: images per run.
        p50_ms, p99_ms: of a run, in milliseconds: the median over rounds of a round's median, and of all runs.
        images_per_second: batch / p50.
        ratio, ratio_low, ratio_high: of its time to the first row's of this batch size, in the same round: median and
            quartiles over the rounds.
        memory_mib: what loading it and its first runs at the largest batch size added to a process; None where that was
            not measured.
    """

    contender: str
    runtime: str
    device: str
    precision: str
    batch: int
    p50_ms: float
    p99_ms: float
    images_per_second: float
    ratio: float
    ratio_low: float
    ratio_high: float
    memory_mib: float | None = None


class Latency(Record):
    """What `guard.bench` measured.

    Attributes:
        rows: by batch size, then in the order of the contenders.
        compared_with: the contender that ratios are to.
        threads: intra-op threads; None for the runtime's own choice.
        machine: processor, cores, instruction sets, versions.
    """

    rows: tuple[LatencyRow, ...]
    compared_with: str
    threads: int | None
    rounds: int
    machine: dict[str, Any]

    def __str__(self) -> str:
        head = ("", "runtime", "precision", "batch", "p50 ms", "p99 ms", "images/s", "ratio (quartiles)", "MiB")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(row: LatencyRow) -> tuple[str, ...]:
    return (
        row.contender,
        f"{row.runtime} {row.device}",
        row.precision,
        str(row.batch),
        f"{row.p50_ms:.3g}",
        f"{row.p99_ms:.3g}",
        f"{row.images_per_second:.0f}",
        f"{row.ratio:.3f} ({row.ratio_low:.3f}-{row.ratio_high:.3f})",
        "" if row.memory_mib is None else f"{row.memory_mib:.0f}",
    )
