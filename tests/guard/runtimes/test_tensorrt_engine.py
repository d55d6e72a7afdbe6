"""What the TensorRT runtime copies in and out, on a CUDA and an engine that ONNX Runtime plays. A real engine needs a
GPU (tests/export/test_to_tensorrt.py runs one where there is one)."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.optional_inputs import recalibrated
from export.to_tensorrt import build_engine
from guard.artefact.files import write_onnx
from guard.artefact.load import load
from guard.detector import Guard
from guard.errors import ConfigError, EngineMismatchError, MissingExtraError, RuntimeUnavailableError
from guard.manifest import Manifest
from guard.runtimes.tensorrt_engine import TensorRTEngine
from tests.fake_tensorrt import GPU, Cuda, FakeEngine, install, tensorrt
from tests.serving.conftest import colour_graph, colour_manifest


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    install(monkeypatch, made, tensorrt("10.9.0.34", made))
    return made


def manifest(*, by_class: bool) -> Manifest:
    made = colour_manifest()
    if not by_class:
        return made
    update = {"class_offsets": (-2.5, 0.0, 1.0), "class_counts": (33,) * 3, "class_intervals": (None,) * 3}
    scaling = {"value": 2.5, "n": 9, "measured_on": "test", "measured_images": 9}
    scaling |= dict.fromkeys(("ece_before", "ece_after", "nll_before", "nll_after"), 0.5)
    text = made.model_copy(update={"calibration": made.calibration.model_copy(update=update)}).model_dump()
    return Manifest.model_validate(text | {"temperature": scaling})


def built(of: Manifest, graph_of: Manifest, **batches: int) -> tuple[bytes, Manifest]:
    batches = {"max_batch": 4, **batches}
    engine, facts = build_engine(recalibrated(colour_graph(), graph_of), of, **batches)
    return engine, of.model_copy(update={"engine": facts})


def engine(of: Manifest, graph_of: Manifest, **batches: int) -> Guard:
    content, m = built(of, graph_of, **batches)
    return Guard(m, TensorRTEngine(content, m))


_COLOURS = np.random.default_rng(0).integers(0, 256, (11, 1, 1, 3)) * np.linspace(0.1, 1, 11).reshape(-1, 1, 1, 1)
IMAGES = np.broadcast_to(_COLOURS.astype(np.uint8), (11, 8, 8, 3))


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("graph_by_class", [False, True])
def test_an_engine_decides_like_onnx_runtime(by_class: bool, graph_by_class: bool, tmp_path: Path) -> None:
    """Whether the engine has the inputs or not: 11 images in batches of at most 4."""
    m = manifest(by_class=by_class)
    g = engine(m, manifest(by_class=graph_by_class))
    names = {"class_offsets", "inverse_temperature"} if graph_by_class else set()
    assert g.runtime.optional_inputs == names
    write_onnx(tmp_path / "guard.onnx", recalibrated(colour_graph(), m), m)
    expected = load(tmp_path / "guard.onnx", device="cpu").predict_batches([IMAGES])
    found = g.predict_batches([IMAGES])
    for name in ("label", "ood_score", "is_ood", "p_value", "thresholds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert 0 < expected.is_ood.sum() < 11


def test_inputs_that_are_not_given_have_the_manifests_values() -> None:
    g = engine(manifest(by_class=True), manifest(by_class=True))
    bare, fed = g.runtime.run(IMAGES), g.predict_batches([IMAGES])
    np.testing.assert_array_equal(bare.is_ood, fed.is_ood)
    np.testing.assert_array_equal(bare.probabilities, fed.probabilities)
    other = g.runtime.run(IMAGES, 1e9, inverse_temperature=np.array(0, np.float32))
    assert not other.is_ood.any()
    np.testing.assert_allclose(other.probabilities, 1 / 3, atol=1e-6)


def played(g: Guard) -> FakeEngine:
    return g.runtime._engine  # type: ignore[attr-defined]


def test_a_small_batch_is_filled_up_and_cut_again() -> None:
    m = manifest(by_class=False)
    whole, g = engine(m, m, max_batch=16), engine(m, m, min_batch=3, opt_batch=4)
    expected = whole.predict_batches([IMAGES])
    for n in (1, 2, 3, 4, 5, 11):
        found = g.predict_batches([IMAGES[:n]])
        np.testing.assert_array_equal(found.ood_score, expected.ood_score[:n])
        np.testing.assert_array_equal(found.label, expected.label[:n])
    assert played(g).batches == [3, 3, 3, 4, 4, 3, 4, 4, 3]


def test_nothing_is_copied_but_pixels_and_answers(cuda: Cuda) -> None:
    m = manifest(by_class=True)
    g = engine(m, m)
    g.predict_batches([IMAGES[:4]])
    cuda.copied.clear()
    g.predict_batches([IMAGES[:4]])
    pixels, answers = 4 * 8 * 8 * 3, [4 * 8, 4 * 3 * 4, 4 * 4, 4]
    assert cuda.copied == [("in", pixels), *(("out", size) for size in answers)]
    cuda.copied.clear()
    g.predict_batches([IMAGES[:4]], threshold=1e9)
    assert cuda.copied[0] == ("in", 4)
    assert sum(way == "in" for way, _ in cuda.copied) == 2


def test_answers_are_the_callers_own() -> None:
    g = engine(manifest(by_class=False), manifest(by_class=False))
    first = g.runtime.run(IMAGES[:4])
    kept = first.ood_score.copy()
    g.runtime.run(IMAGES[4:8])
    np.testing.assert_array_equal(first.ood_score, kept)


def test_threads_take_turns() -> None:
    g = engine(manifest(by_class=False), manifest(by_class=False))
    expected = [g.runtime.run(IMAGES[i : i + 2]).ood_score for i in range(4)]
    wrong: list[int] = []

    def ask(i: int) -> None:
        for _ in range(30):
            if (g.runtime.run(IMAGES[i : i + 2]).ood_score != expected[i]).any():
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_was_taken_is_given_back(cuda: Cuda) -> None:
    g = engine(manifest(by_class=False), manifest(by_class=False))
    assert len(cuda.device) == len(cuda.pinned) == 6
    assert cuda.streams == 1
    g.runtime.close()  # type: ignore[attr-defined]
    assert not cuda.device
    assert not cuda.pinned
    assert not cuda.streams


@pytest.mark.parametrize(
    ("facts", "error", "words"),
    [
        ({"version": "10.8.0"}, EngineMismatchError, r"built with tensorrt 10\.8\.0, installed is 10\.9\.0\.34"),
        ({"version": "10.9.1"}, EngineMismatchError, r"built with tensorrt 10\.9\.1, installed is"),
        ({"gpu": "NVIDIA A100"}, EngineMismatchError, "built for NVIDIA A100, and this GPU is NVIDIA Fake 9000 .SM90"),
        ({"gpu": "", "compute_capabilities": ("SM80", "SM86")}, EngineMismatchError, "built for SM80, SM86, and this"),
        ({"flavour": "tensorrt_rtx"}, MissingExtraError, r"tensorrt_rtx .*pip install 'ood-guard\[tensorrt-rtx\]'"),
    ],
)
def test_another_machines_engine_is_refused(facts: dict[str, Any], error: type[Exception], words: str) -> None:
    m = manifest(by_class=False)
    content, m = built(m, m)
    assert m.engine is not None
    assert (m.engine.gpu, m.engine.compute_capabilities) == (GPU, ("SM90",))
    with pytest.raises(error, match=words):
        TensorRTEngine(content, m.model_copy(update={"engine": m.engine.model_copy(update=facts)}))


def test_an_older_file_does_not_say_its_gpu() -> None:
    """Then TensorRT itself decides."""
    m = manifest(by_class=False)
    content, m = built(m, m)
    assert m.engine is not None
    older = m.engine.model_copy(update={"gpu": "", "compute_capabilities": ("current",)})
    assert len(Guard(m, TensorRTEngine(content, m.model_copy(update={"engine": older}))).predict(IMAGES)) == 11
    with pytest.raises(EngineMismatchError, match=r"cannot run the engine, which was built by tensorrt .* current"):
        TensorRTEngine(b"another" + content, m.model_copy(update={"engine": older}))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    m = manifest(by_class=False)
    content, m = built(m, m)
    with pytest.raises(ConfigError, match="does not belong to a TensorRT engine"):
        TensorRTEngine(content, m.model_copy(update={"engine": None}))
    none = Cuda(count=0)
    install(monkeypatch, none, tensorrt("10.9.0.34", none))
    with pytest.raises(RuntimeUnavailableError, match=r"this machine shows none; load the \.onnx file instead"):
        TensorRTEngine(content, m)
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match="cuda-bindings"):
        TensorRTEngine(content, m)


class RuntimeCache:
    """tensorrt_rtx's: what it compiled, of one machine."""

    def __init__(self) -> None:
        self.content = b"compiled"
        self.read = False

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, blob: bytes) -> bool:
        self.read = blob == b"compiled"
        return self.read


def test_what_tensorrt_rtx_compiles_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    caches: list[RuntimeCache] = []

    def runtime_config(self: FakeEngine) -> Any:
        caches.append(RuntimeCache())
        return SimpleNamespace(create_runtime_cache=lambda: caches[-1], set_runtime_cache=lambda cache: None)

    monkeypatch.setattr(FakeEngine, "create_runtime_config", runtime_config, raising=False)
    m = manifest(by_class=False)
    content, m = built(m, m)
    kept = tmp_path / "guard.engine.compiled"
    TensorRTEngine(content, m, kept).keep_compiled()
    assert kept.read_bytes() == b"compiled"
    TensorRTEngine(content, m, kept)
    assert [cache.read for cache in caches] == [False, True]
    kept.write_bytes(b"of another machine")
    with caplog.at_level("INFO", logger="ood_guard"):
        TensorRTEngine(content, m, kept)
    assert "is of another machine or version, or damaged: it is made anew" in caplog.text
