"""The public functions. Their bodies reach train/ and export/ only when called, so that `import guard` stays light.

making     train, fit
synthesis  synth
benchmarking  benchmark, plan_benchmark
scanning   scan
using      load, export, verify, bench, calibrate, evaluate
listing    list_methods, list_scores, create_score, register_score
arguments  what they do with an argument before it goes into a request (`guard.requests`)
"""

from __future__ import annotations

from .benchmarking import benchmark, plan_benchmark
from .listing import create_score, list_methods, list_scores, register_score
from .making import fit, train
from .scanning import scan
from .synthesis import synth
from .using import bench, calibrate, evaluate, export, load, verify

__all__ = [
    "bench",
    "benchmark",
    "calibrate",
    "create_score",
    "evaluate",
    "export",
    "fit",
    "list_methods",
    "list_scores",
    "load",
    "plan_benchmark",
    "register_score",
    "scan",
    "synth",
    "train",
    "verify",
]
