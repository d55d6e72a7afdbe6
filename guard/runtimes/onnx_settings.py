"""How an ONNX Runtime session uses the machine: for latency or for throughput.

    tuned_for     for                                       threads of a run   idle threads   memory pattern
    latency       one run at a time, alone on the machine   all cores          spin           planned per batch size
    throughput    many runs at once, or other work beside   one                sleep          none

A session serves many threads at once, so for throughput as many of them as cores call it, or as many processes load
the file. Both keep the memory arena, which grows to the largest batch and is not given back, and run the nodes one
after the other with every optimisation: the graph has no branches that could run side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..cores import limited_cores
from ..errors import ConfigError

TunedFor = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a session is opened with.

    Attributes:
        threads: of one node (intra-op); None for ONNX Runtime's own choice, a thread for every core.
        optimisation: of the graph, "none" or "all"; none for a graph that was optimised before.
        spinning: whether idle threads spin: the next run begins sooner, and nobody else gets the core.
        memory_pattern: whether the memory of a batch size is planned once and kept.
        integers: whether int8 kernels take the place of QuantizeLinear and DequantizeLinear nodes; without, what lies
            between them is computed in float32.
    """

    threads: int | None = None
    optimisation: Literal["none", "all"] = "all"
    spinning: bool = True
    memory_pattern: bool = True
    integers: bool = True


def session_settings(tuned_for: str = "latency", threads: int | None = None) -> SessionSettings:
    """The settings for that purpose, with `threads` in place of its own count.

    Raises:
        ConfigError: another purpose, or no thread.
    """
    if tuned_for not in get_args(TunedFor):
        raise ConfigError(f"tuned_for must be 'latency' or 'throughput', got {tuned_for!r}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if tuned_for == "throughput":
        return SessionSettings(threads=threads or 1, spinning=False, memory_pattern=False)
    if threads is None:
        threads = limited_cores()  # its own default would be one for each of the host's
    return SessionSettings(threads=threads)


def session_options(ort: Any, settings: SessionSettings) -> Any:
    """An `onnxruntime.SessionOptions` of these settings."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    level = "ORT_ENABLE_ALL" if settings.optimisation == "all" else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.execution_mode, options.inter_op_num_threads = ort.ExecutionMode.ORT_SEQUENTIAL, 1
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    options.enable_mem_pattern = settings.memory_pattern
    if not settings.integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
