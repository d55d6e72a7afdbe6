"""The model repository for Triton: its files, versions, and the configuration against Triton's own schema."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import guard
from export.triton import config, next_version
from guard.errors import ConfigError, ExportError
from tests.export.test_optional_inputs import alone
from tests.random_guards import make_guard

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "animals"
    assert guard.export(make_guard("energy", "linear"), folder, format="triton", data=IMAGES, max_batch=16) == folder
    return folder


def schema() -> Any:
    """Triton's ModelConfig, from its client's package, whose other parts need gRPC."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("tritonclient, which brings Triton's schema, is not installed")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files(model: Path) -> None:
    assert sorted(p.relative_to(model).as_posix() for p in model.rglob("*")) == [
        "1", "1/model.onnx", "config.pbtxt", "labels.txt",
    ]  # fmt: skip
    assert (model / "labels.txt").read_text() == "a\nb\nc\nd\n"
    assert guard.load(model / "1" / "model.onnx").class_names == ("a", "b", "c", "d")


def test_the_configuration_is_of_the_schema_and_of_the_graph(model: Path) -> None:
    from google.protobuf import text_format

    triton = schema()
    read = text_format.Parse((model / "config.pbtxt").read_text(), triton.ModelConfig())
    assert (read.name, read.backend, read.max_batch_size) == ("animals", "onnxruntime", 16)
    graph = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(uint8)": "UINT8", "tensor(int64)": "INT64", "tensor(float)": "FP32", "tensor(bool)": "BOOL"}

    def declared(tensor: Any) -> tuple[str, str, list[int]]:
        dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
        return tensor.name, triton.DataType.Name(tensor.data_type).removeprefix("TYPE_"), dims

    def there(tensor: Any) -> tuple[str, str, list[int]]:
        return tensor.name, types[tensor.type], list(tensor.shape[1:])  # the first is the batch

    assert list(map(declared, read.input)) == list(map(there, graph.get_inputs()))
    assert list(map(declared, read.output)) == list(map(there, graph.get_outputs()))
    (probabilities,) = (output for output in read.output if output.label_filename)
    assert (probabilities.name, probabilities.label_filename) == ("probabilities", "labels.txt")
    assert read.HasField("dynamic_batching")
    assert [warm.batch_size for warm in read.model_warmup] == [1, 16]
    assert all(warm.inputs["images"].zero_data for warm in read.model_warmup)


def test_each_export_is_the_next_version(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "animals"
    file = model / "1" / "model.onnx"
    for version in (1, 2):
        guard.export(file, folder, format="triton")  # an exported file is copied as it is
        assert (folder / str(version) / "model.onnx").read_bytes() == file.read_bytes()
    assert not list(folder.glob(".*"))
    (folder / "12").mkdir()
    assert next_version(folder).name == "13"


def test_a_guard_that_was_calibrated_in_memory_ships_its_own_thresholds(model: Path, tmp_path: Path) -> None:
    g = guard.load(model / "1" / "model.onnx", device="cpu")
    images = np.random.default_rng(1).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    again = g.calibrate(images, alpha=0.3, class_conditional=True, min_class_images=3)
    identity = again.manifest.identity
    folder = guard.export(again, tmp_path / "animals", format="triton")
    file = folder / "1" / "model.onnx"
    written = guard.load(file, device="cpu").manifest
    assert written.calibration == again.manifest.calibration
    np.testing.assert_array_equal(alone(file, images)["is_ood"], again.predict(images).is_ood)
    assert f'string_value: "{written.identity}"' in (folder / "config.pbtxt").read_text()
    assert again.manifest.identity == identity


def test_names_are_quoted() -> None:
    text = config('a"b', make_guard("energy", "linear").manifest, 4)
    assert text.startswith('name: "a\\"b"\n')


def test_refusals(tmp_path: Path) -> None:
    g = make_guard("energy", "linear")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(ExportError, match="is not a model of a Triton repository"):
        guard.export(g, tmp_path / "photos", format="triton")
    with pytest.raises(ConfigError, match=r"must end in \.onnx or \.engine, got 'animals', or give format='triton'"):
        guard.export(g, tmp_path / "animals")
    with pytest.raises(ConfigError, match=r"must end in \.onnx, got 'guard\.engine'"):
        guard.export(g, tmp_path / "guard.engine", format="onnx")
