"""Bound memory gives the answers of plain runs. On a GPU it is device memory; here ONNX Runtime binds the CPU's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from guard.runtimes import Outputs, onnx_binding
from guard.runtimes.onnx_session import OnnxSession
from tests.serving.conftest import colour_graph

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
FIELDS = ("label", "probabilities", "ood_score", "is_ood")


@pytest.fixture(scope="module")
def plain() -> OnnxSession:
    return OnnxSession(colour_graph(), device="cpu", threads=1, bound=False)


@pytest.fixture
def bound() -> OnnxSession:
    return OnnxSession(colour_graph(), device="cpu", threads=1, bound=True)


def same(a: Outputs, b: Outputs) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


@pytest.mark.parametrize("threshold", [None, -5.0, 1e9])
def test_bound_runs_give_the_same(bound: OnnxSession, plain: OnnxSession, threshold: float | None) -> None:
    for n in (1, 7, 7, 1, 40):
        same(bound.run(IMAGES[-n:], threshold), plain.run(IMAGES[-n:], threshold))


def test_a_threshold_that_changes_is_sent(bound: OnnxSession, plain: OnnxSession) -> None:
    between = float(np.median(plain.run(IMAGES).ood_score))
    for threshold in (1e9, between, between, -1e9, 1e9):
        same(bound.run(IMAGES, threshold), plain.run(IMAGES, threshold))
    assert 0 < bound.run(IMAGES, between).is_ood.sum() < 40


def test_answers_are_the_callers_own(bound: OnnxSession) -> None:
    first = bound.run(IMAGES[:4])
    kept = first.ood_score.copy()
    bound.run(IMAGES[4:8])
    np.testing.assert_array_equal(first.ood_score, kept)


def test_memory_is_bound_once_per_batch_size(bound: OnnxSession, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = onnx_binding._Bound.__init__

    def counted(self: Any, session: Any, ort_: Any, device: str, feed: Any, outputs: Any) -> None:
        made.append(len(feed["images"]))
        real(self, session, ort_, device, feed, outputs)

    monkeypatch.setattr(onnx_binding._Bound, "__init__", counted)
    for n in (1, 8, 1, 8, 8, 1):
        bound.run(IMAGES[:n])
    assert made == [1, 8]
    for n in range(2, 2 + onnx_binding.KEPT):  # the least recent sizes make room
        bound.run(IMAGES[:n])
    bound.run(IMAGES[:1])
    assert made.count(1) == 2
    assert len(bound._here.runs._bound) == onnx_binding.KEPT


def test_what_did_not_change_is_not_sent_again(bound: OnnxSession, monkeypatch: pytest.MonkeyPatch) -> None:
    bound.run(IMAGES[:2], 1.0)
    sent: list[str] = []
    (memory,) = bound._here.runs._bound.values()

    class Counted:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.value = name, value

        def update_inplace(self, array: np.ndarray) -> None:
            sent.append(self.name)
            self.value.update_inplace(array)

    memory._inputs = {name: Counted(name, value) for name, value in memory._inputs.items()}
    bound.run(IMAGES[:2], 1.0)
    assert sent == ["images"]
    bound.run(IMAGES[:2], 2.0)
    assert sent == ["images", "images", "threshold"]


def test_every_thread_has_memory_of_its_own(bound: OnnxSession, plain: OnnxSession) -> None:
    wrong: list[int] = []

    def ask(start: int) -> None:
        part = IMAGES[start : start + 4]
        expected = plain.run(part).ood_score
        for _ in range(20):
            if (bound.run(part).ood_score != expected).any():
                wrong.append(start)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 4, 8, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_gpu_is_bound_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is what is asked for; the session behind it is the CPU's."""
    monkeypatch.setattr("guard.runtimes.onnx_session.resolve_device", lambda device, runtime: device)
    real = ort.InferenceSession(colour_graph(), providers=["CPUExecutionProvider"])
    monkeypatch.setattr("guard.runtimes.onnx_session.open_session", lambda *_, **__: real)
    assert OnnxSession(b"", device="cuda")._bound
    assert not OnnxSession(b"", device="cpu")._bound
