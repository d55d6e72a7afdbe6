"""Which provider runs a guard, on machines that a fake onnxruntime plays: with a GPU, without, with a broken one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import guard
from guard.artefact.files import write_onnx
from guard.errors import ConfigError, RuntimeUnavailableError
from guard.runtimes import onnx_providers, onnx_session
from guard.runtimes.onnx_providers import CPU, CUDA, TRT, providers, resolve_device
from tests.serving.conftest import colour_graph, colour_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


class Session:
    """A session of the CPU that says to have another provider."""

    def __init__(self, given: Any, options: Any, providers: list[Any], *, works: bool) -> None:
        self._real = ort.InferenceSession(given, options, providers=[CPU])
        self.asked = providers
        names = [one if isinstance(one, str) else one[0] for one in providers]
        self._names = names if works else [CPU]

    def get_providers(self) -> list[str]:
        return self._names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Machine:
    """onnxruntime on a machine."""

    __version__ = ort.__version__

    def __init__(self, *available: str, works: bool = True) -> None:
        self._available, self._works = [*available, CPU], works
        self.opened: list[Session] = []

    def get_available_providers(self) -> list[str]:
        return self._available

    def InferenceSession(self, given: Any, options: Any, providers: list[Any]) -> Session:
        self.opened.append(Session(given, options, providers, works=self._works or providers == [CPU]))
        return self.opened[-1]

    class OrtValue:
        """Device memory is host memory."""

        @staticmethod
        def ortvalue_from_numpy(array: np.ndarray, device: str, number: int) -> Any:
            assert device == "cuda"
            return ort.OrtValue.ortvalue_from_numpy(array, "cpu", number)

        @staticmethod
        def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str, number: int) -> Any:
            assert device == "cuda"
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", number)

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def machine(*available: str, driver: bool = True, works: bool = True) -> Machine:
        made = Machine(*available, works=works)
        for module in (onnx_providers, onnx_session):
            monkeypatch.setattr(module, "twin", lambda _: made)
        monkeypatch.setattr(onnx_providers, "cuda_driver", lambda: driver)
        return made

    return machine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "guard.onnx", colour_graph(), colour_manifest())
    return tmp_path / "guard.onnx"


@pytest.mark.parametrize(
    ("available", "driver", "device", "runtime", "found"),
    [
        ((), False, "auto", "onnxruntime", "cpu"),
        ((), True, "auto", "onnxruntime", "cpu"),
        ((CUDA,), False, "auto", "onnxruntime", "cpu"),
        ((CUDA,), True, "auto", "onnxruntime", "cuda"),
        ((CUDA,), True, "cpu", "onnxruntime", "cpu"),
        ((CUDA,), False, "cuda", "onnxruntime", "cuda"),  # ONNX Runtime will say why it cannot
        ((TRT, CUDA), True, "auto", "onnxruntime", "cuda"),
        ((TRT, CUDA), True, "auto", "onnxruntime-tensorrt", "cuda"),
        ((TRT, CUDA), True, "cuda", "onnxruntime-tensorrt", "cuda"),
    ],
)
def test_the_rules(on: Any, available: tuple[str, ...], driver: bool, device: str, runtime: str, found: str) -> None:
    on(*available, driver=driver)
    assert resolve_device(device, runtime) == found


@pytest.mark.parametrize(
    ("available", "driver", "said"),
    [
        ((), False, ""),  # nothing that could be fallen back from
        ((CUDA,), False, "device auto: no CUDA driver on this machine, so ONNX Runtime runs on the CPU"),
        ((), True, "device auto: this onnxruntime has no CUDA support, so it runs on the CPU; to use the GPU run: pip"),
        ((CUDA,), True, ""),
    ],
)
def test_auto_says_that_it_falls_back(on: Any, available: Any, driver: bool, said: str, caplog: Any) -> None:
    on(*available, driver=driver)
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        resolve_device("auto")
    assert caplog.text.count("device auto") == bool(said)
    assert said in caplog.text


@pytest.mark.parametrize(
    ("available", "given", "error", "words"),
    [
        ((), {"device": "cuda"}, RuntimeUnavailableError, "no CUDA support; run: pip .*or load with device='cpu'"),
        ((CUDA,), {"device": "gpu"}, ConfigError, "device must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        (
            (CUDA,),
            {"runtime": "onnxruntime-tensorrt"},
            RuntimeUnavailableError,
            "no TensorRT provider .it has CUDAExecutionProvider, .*or load with runtime='onnxruntime'",
        ),
        (
            (TRT, CUDA),
            {"runtime": "onnxruntime-tensorrt", "device": "cpu"},
            ConfigError,
            "runs on a GPU, got device='cpu'; use runtime='onnxruntime'",
        ),
        ((), {"runtime": "onnxruntime-rocm"}, ConfigError, "runtime must be one of .*got 'onnxruntime-rocm'"),
    ],
)
def test_what_is_not_there_is_an_error(
    on: Any, path: Path, available: Any, given: dict[str, str], error: type[Exception], words: str
) -> None:
    on(*available)
    with pytest.raises(error, match=words):
        guard.load(path, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "cuda"}, "asked ONNX Runtime for CUDAExecutionProvider, got CPU.*or load with device='cpu'"),
        (
            {"runtime": "onnxruntime-tensorrt"},
            "asked ONNX Runtime for TensorrtExecutionProvider, got CPU.*TensorRT 10, CUDA and cuDNN libraries",
        ),
    ],
)
def test_a_provider_that_onnx_runtime_drops_is_an_error(on: Any, path: Path, given: Any, words: str) -> None:
    on(TRT, CUDA, works=False)
    with pytest.raises(RuntimeUnavailableError, match=words):
        guard.load(path, **given)


def test_auto_runs_on_the_cpu_where_the_gpu_cannot_be_used(on: Any, path: Path, caplog: Any) -> None:
    on(CUDA, works=False)
    g = guard.load(path)
    assert g.runtime.device == "cpu"
    assert "runs on the CPU, for the GPU cannot be used (asked ONNX Runtime for CUDAExecutionProvider" in caplog.text
    assert len(g.predict(IMAGES)) == 5


def test_bf16_does_not_fall_back(on: Any, tmp_path: Path) -> None:
    on(CUDA, works=False)
    write_onnx(tmp_path / "b.onnx", colour_graph(), colour_manifest().model_copy(update={"precision": "bf16"}))
    with pytest.raises(RuntimeUnavailableError, match="computes in bfloat16, which ONNX Runtime does on CUDA alone"):
        guard.load(tmp_path / "b.onnx")


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-tensorrt"])
def test_a_gpu_decides_as_the_cpu(on: Any, path: Path, runtime: str) -> None:
    """Through bound memory, as on a GPU."""
    expected = guard.load(path, device="cpu").predict(IMAGES)
    machine = on(TRT, CUDA)
    g = guard.load(path, runtime=runtime)
    assert (g.runtime.name, g.runtime.device) == (runtime, "cuda")
    assert machine.opened[-1].get_providers()[0] == (TRT if "tensorrt" in runtime else CUDA)
    for _ in range(2):
        np.testing.assert_array_equal(g.predict(IMAGES).ood_score, expected.ood_score)
        np.testing.assert_array_equal(g.predict(IMAGES).is_ood, expected.is_ood)
    assert guard.verify(path, against=path, data=IMAGES, against_device="cpu", runtime=runtime).flag_flips == 0


def test_the_providers_and_their_options(tmp_path: Path) -> None:
    assert providers("onnxruntime", "cpu") == [CPU]
    cuda = (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"})
    assert providers("onnxruntime", "cuda") == [cuda, CPU]
    ((_, options), _) = providers("onnxruntime", "cuda", tuned_for="throughput")
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert providers("onnxruntime-tensorrt", "cuda") == [(TRT, {}), cuda, CPU]
    ((_, options), *_) = providers("onnxruntime-tensorrt", "cuda", precision="int8", cache=tmp_path)
    assert options["trt_int8_enable"] == options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)


def test_the_tensorrt_provider_keeps_its_engines_by_file(on: Any, path: Path, tmp_path: Path) -> None:
    machine = on(TRT, CUDA)
    for number in (1, 2):
        guard.load(path, device="cpu").calibrate(IMAGES, alpha=0.1 * number + 0.1).save(tmp_path / f"{number}.onnx")
        guard.load(tmp_path / f"{number}.onnx", runtime="onnxruntime-tensorrt", cache=tmp_path / "cache")
    folders = [one.asked[0][1].get("trt_engine_cache_path") for one in machine.opened if one.asked[0] != CPU]
    assert len(set(folders)) == 2
    assert all(Path(folder).parent == tmp_path / "cache" for folder in folders)
