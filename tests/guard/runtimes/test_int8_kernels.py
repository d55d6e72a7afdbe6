"""Which int8 files a CPU's int8 kernels may compute."""

from __future__ import annotations

from typing import Any

import pytest

from guard.exported import PrecisionChange
from guard.runtimes.int8_kernels import exact_in_int8
from tests.serving.conftest import colour_manifest

VNNI, WITHOUT = frozenset({"avx2", "avx512_vnni"}), frozenset({"avx2", "fma"})
CHANGE: dict[str, Any] = {
    "images": 9,
    "accuracy": None,
    "auroc": (1.0, 1.0),
    "ood": "synthetic",
    "ood_images": 9,
    "false_alarm_rate": (0.0, 0.0),
    "flag_flips": 0,
    "label_changes": 0,
}


@pytest.mark.parametrize(
    ("precision", "change", "processor", "flags", "exact"),
    [
        ("int8", {"target": "cpu", "weight_bits": 7}, "x86_64", WITHOUT, True),
        ("int8", {"target": "cpu", "weight_bits": 7}, "x86_64", VNNI, True),
        ("int8", {"target": "cpu"}, "x86_64", WITHOUT, False),  # written before weights had 7 bits
        ("int8", {"target": "cpu"}, "AMD64", frozenset(), False),  # Windows: nothing is known
        ("int8", {"target": "cpu"}, "x86_64", VNNI, True),
        ("int8", {"target": "cpu"}, "aarch64", frozenset({"asimd"}), True),
        ("int8", {"target": "tensorrt"}, "x86_64", VNNI, False),
        ("fp16", {"target": "cpu"}, "x86_64", WITHOUT, True),
        ("fp32", None, "x86_64", WITHOUT, True),
    ],
)
def test_sums_of_16_bits_hold_weights_of_7(
    precision: str,
    change: dict[str, Any] | None,
    processor: str,
    flags: frozenset[str],
    exact: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guard.runtimes.int8_kernels.cpu_flags", lambda: flags)
    monkeypatch.setattr("platform.machine", lambda: processor)
    found = None if change is None else PrecisionChange(**CHANGE, **change)
    manifest = colour_manifest().model_copy(update={"precision": precision, "precision_change": found})
    assert exact_in_int8(manifest) is exact
