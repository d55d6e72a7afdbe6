"""OpenVINO runs an exported guard: new thresholds, several threads at once, refusals. Every part: tests/export."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import guard
from export.to_onnx import onnx_bytes
from guard.errors import ArtefactDamagedError, ConfigError, MissingExtraError
from guard.runtimes.openvino_model import OpenVINOModel
from tests.random_guards import exported, make_guard

IMAGES = np.random.default_rng(0).integers(0, 256, (1000, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> tuple[guard.Guard, Path]:
    """A guard with a threshold per class and a temperature, and its exported file."""
    g = make_guard("energy", "linear")
    labels = g.predict(IMAGES[:200]).label
    labels[::5] = (labels[::5] + 1) % 4
    g = g.calibrate(IMAGES[:200], labels=labels, class_conditional=True, min_class_images=19, temperature_scaling=True)
    return g, guard.export(g, tmp_path_factory.mktemp("openvino") / "guard.onnx", data=IMAGES[:50])


def test_a_thousand_images_get_the_same_flags(by_class: tuple[guard.Guard, Path]) -> None:
    g, path = by_class
    report = guard.verify(path, against=g, data=IMAGES, runtime="openvino")
    assert report.images == 1000
    assert report.flag_flips == 0
    assert report.runtime == "openvino (cpu)"
    assert 0 < report.false_alarm_rate[1] < 1


def test_thresholds_are_inputs_again(by_class: tuple[guard.Guard, Path]) -> None:
    _, path = by_class
    ours, theirs = guard.load(path), guard.load(path, runtime="openvino")
    assert theirs.runtime.optional_inputs == {"class_offsets", "inverse_temperature"}  # type: ignore[attr-defined]
    threshold = float(np.median(ours.predict(IMAGES).ood_score)) + 1e-3
    a, b = (g.predict(IMAGES, threshold=threshold) for g in (ours, theirs))
    np.testing.assert_array_equal(a.is_ood, b.is_ood)
    assert not np.array_equal(a.is_ood, ours.predict(IMAGES).is_ood)
    again = theirs.calibrate(IMAGES[:300], alpha=0.5)
    assert again.predict(IMAGES).is_ood.mean() > 0.3


def test_threads_do_not_mix_answers() -> None:
    model = OpenVINOModel(exported("energy", "linear")[1], threads=1)
    expected = model.run(IMAGES[:64]).ood_score
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: model.run(IMAGES[i : i + 1]).ood_score[0], range(64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_answers_are_the_callers_own() -> None:
    model = OpenVINOModel(exported("energy", "linear")[1], threads=1)
    first = model.run(IMAGES[:8])
    kept = first.ood_score.copy()
    model.run(IMAGES[8:16])
    np.testing.assert_array_equal(first.ood_score, kept)


def test_what_it_cannot_do_is_refused(by_class: tuple[guard.Guard, Path], tmp_path: Path) -> None:
    g, path = by_class
    with pytest.raises(ConfigError, match="runs on the CPU, got device='cuda'"):
        guard.load(path, runtime="openvino", device="cuda")
    with pytest.raises(ConfigError, match=r"runtime must be one of auto, onnxruntime, .*openvino, got 'opnvino'"):
        guard.load(path, runtime="opnvino")
    g.save_pretrained(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"runs \.onnx files, got .*run; export the guard"):
        guard.load(tmp_path / "run", runtime="openvino")
    with pytest.raises(ConfigError, match="this guard runs on torch, not on openvino"):
        guard.verify(g, against=path, data=IMAGES[:4], runtime="openvino")
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        OpenVINOModel(path, threads=0)
    with pytest.raises(ArtefactDamagedError, match="OpenVINO cannot read the graph"):
        OpenVINOModel(b"nonsense")


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ood-guard\[openvino\]'"):
        OpenVINOModel(onnx_bytes(make_guard("msp", "linear").module, make_guard("msp", "linear").manifest))
