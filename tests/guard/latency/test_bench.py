"""`guard bench`: what is timed, what the ratios are to, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch

import guard
from export.bare import bare_classifier
from export.precision.floats import in_half
from export.precision.integers import Quantiser
from guard import cli
from guard.artefact.files import graph_bytes, read_onnx
from guard.errors import ConfigError, RuntimeUnavailableError
from guard.latency import bare
from guard.latency.measure import Contender, _check_sizes, _largest_first
from guard.latency.memory import memory_mib
from guard.latency.result import BARE, Latency
from guard.runtimes import onnx_session
from tests.conftest import Arrays

FEW = {"rounds": 2, "threads": 1, "memory": False}


def run_bare(graph: bytes, prepared: np.ndarray) -> np.ndarray:
    inside, name, dtype = bare_classifier(graph)
    session = ort.InferenceSession(inside, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [name]
    (logits,) = session.run(None, {name: prepared.astype(dtype)})
    return logits


def test_the_bare_classifier_gives_the_logits(
    trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays
) -> None:
    """torch's, of the same pixels without their mean: the scale is in the first convolution."""
    g, images = trained("plain"), four[0][:16]
    graph = graph_bytes(read_onnx(exported("plain"))[0])
    mean = 255 * np.array(g.manifest.normalisation.mean, np.float32)
    prepared = images.astype(np.float32).reshape(16, *images.shape[1:3], -1) - mean
    with torch.no_grad():
        wanted = g.module.outputs(torch.tensor(images).reshape(prepared.shape)).logits.numpy()
    logits = run_bare(graph, prepared.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
    half = run_bare(in_half(graph, "fp16"), prepared.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(half, wanted, rtol=0.05, atol=0.1)
    batch = images.reshape(prepared.shape)
    integers = run_bare(Quantiser(graph, [batch], "cpu").quantised(), prepared.transpose(0, 3, 1, 2))
    assert (integers.argmax(1) == wanted.argmax(1)).mean() > 0.9


ARCHITECTURES = ["vit_tiny_patch16_224", "test_convnext"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_cut_out_of_any_architecture(architecture: str, four: Arrays, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"img_size": 32} if "vit" in architecture else {}
    options |= {"depth": 2} if architecture.startswith("vit") else {}
    model = timm.create_model(architecture, num_classes=4, **options).eval()
    images = np.kron(four[0][:40], np.ones((1, 2, 2, 1), np.uint8))
    mean = (0.5, 0.5, 0.5)
    data = (images, four[1][:40])
    g = guard.fit(model, data, calibration=data, score="energy", image_size=32, mean=mean, std=mean, device="cpu")
    path = guard.export(g, tmp_path / "model.onnx")
    graph = graph_bytes(read_onnx(path)[0])
    inside, name, _ = bare_classifier(graph)
    whole = onnx.load_from_string(graph)
    whole.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    (prepared,) = session.run([name], {"images": images})
    with torch.no_grad():
        wanted = model(torch.tensor(images.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)).numpy()
    (logits,) = ort.InferenceSession(inside, providers=["CPUExecutionProvider"]).run(None, {name: prepared})
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)


def test_all_take_turns_at_every_batch_size(
    trained: Callable[[str], Any], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    trained("plain").save_pretrained(tmp_path / "run")
    found = guard.bench(
        exported("plain"),
        tmp_path / "run",
        batch_sizes=[1, 4],
        runtime=["onnxruntime", "openvino"],
        out=tmp_path / "latency.html",
        **FEW,
    )
    names = [(row.contender, row.runtime, row.batch) for row in found.rows]
    every = [(BARE, "onnxruntime"), ("plain.onnx", "onnxruntime"), ("plain.onnx", "openvino"), ("run", "torch")]
    assert names == [(*one, batch) for batch in (1, 4) for one in every]
    assert found.compared_with == BARE
    for row in found.rows:
        assert 0 < row.p50_ms <= row.p99_ms
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.p50_ms)
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert (row.ratio == 1) == (row.contender == BARE)
    assert Latency.model_validate_json((tmp_path / "latency.json").read_bytes()) == found
    page = (tmp_path / "latency.html").read_text()
    assert page.count("<rect") == len(found.rows)
    assert "src=" not in page
    assert str(found).count("\n") == len(found.rows)


def test_without_onnx_the_first_guard_is_what_is_compared_with(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def missing(_: str) -> Any:
        raise ModuleNotFoundError("no module named onnx", name="onnx")

    monkeypatch.setattr(bare, "sibling", missing)
    found = guard.bench(exported("plain"), batch_sizes=2, **FEW)
    assert [row.contender for row in found.rows] == ["plain.onnx"]
    assert found.compared_with == "plain.onnx"
    assert "no bare classifier is timed beside; pip install onnx" in caplog.text


def test_a_file_in_bf16_is_timed_in_what_runs_it(trained: Callable[[str], Any], tmp_path: Path, caplog: Any) -> None:
    """ONNX Runtime, which runs the bare classifier, has no such kernels on the CPU."""
    path = guard.export(trained("plain"), tmp_path / "bf16.onnx", precision="bf16")
    found = guard.bench(path, batch_sizes=2, **{**FEW, "runtime": "openvino"})
    assert [(row.contender, row.precision) for row in found.rows] == [("bf16.onnx", "bf16")]
    assert "no bare classifier is timed beside: the file computes in bfloat16" in caplog.text


def test_the_bare_classifier_runs_where_a_guard_would(
    exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """With device="auto" on the CPU where the GPU cannot be used."""
    original = onnx_session.open_session

    def opened(*given: Any, device: str, **more: Any) -> Any:
        if device == "cuda":
            raise RuntimeUnavailableError("no room on the GPU")
        return original(*given, device=device, **more)

    monkeypatch.setattr(onnx_session, "open_session", opened)
    monkeypatch.setattr(onnx_session, "resolve_device", lambda device, _: {"auto": "cuda"}.get(device, device))
    found = guard.bench(exported("plain"), batch_sizes=2, **{**FEW, "device": "auto"})
    assert [(row.contender, row.device) for row in found.rows] == [(BARE, "cpu"), ("plain.onnx", "cpu")]
    assert caplog.text.count("for the GPU cannot be used (no room on the GPU)") == 2
    with pytest.raises(RuntimeUnavailableError, match="no room on the GPU"):
        guard.bench(exported("plain"), batch_sizes=2, **{**FEW, "device": "cuda"})


def test_memory_is_of_a_process_of_its_own(exported: Callable[[str], Path]) -> None:
    small, large = (
        memory_mib(exported("plain"), runtime="auto", device="cpu", threads=1, batch=batch) for batch in (1, 2048)
    )
    assert small is not None
    assert large is not None
    assert large - small > 2048 * 16 * 16 * 3 / 2**20  # the images themselves, at least
    assert large < 1000


def test_memory_that_was_not_measured_stops_nothing(
    exported: Callable[[str], Path], tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a module of the working folder that is called as ours, nor a process that is killed."""
    (tmp_path / "guard.py").write_text("raise SystemExit('the wrong guard')")
    monkeypatch.chdir(tmp_path)
    assert memory_mib(exported("plain"), runtime="auto", device="cpu", threads=1, batch=1) is not None
    assert memory_mib(tmp_path / "gone.onnx", runtime="auto", device="cpu", threads=1, batch=1) is None
    assert "the memory of gone.onnx at batch 1 was not measured: " in caplog.text


def test_ratios_are_over_what_takes_every_batch() -> None:
    def one(name: str, largest: int | None) -> Contender:
        return Contender(name, "tensorrt", "cuda", "fp16", len, largest)

    small, large, free = one("small", 8), one("large", 64), one("free", None)
    assert _largest_first([small, large]) == [large, small]
    assert _largest_first([small, large, free]) == [free, small, large]
    assert _largest_first([free, large]) == [free, large]
    _check_sizes([1, 64], large)
    with pytest.raises(ConfigError, match="batch size 65 is above 64, the largest that large was built for"):
        _check_sizes([1, 65], large)


def test_what_cannot_be_compared_is_said(
    exported: Callable[[str], Path], digits: Callable[[str], Arrays], tiny: Any, tmp_path: Path
) -> None:
    larger = guard.train(digits("0-1"), image_size=20, **{**tiny, "epochs": 1})
    guard.export(larger, tmp_path / "larger.onnx")
    with pytest.raises(ConfigError, match="images of different sizes"):
        guard.bench(exported("plain"), tmp_path / "larger.onnx")
    for given, sentence in (
        ({"batch_sizes": [0]}, r"batch_sizes must be numbers of at least 1, like 1,8,64, got 0"),
        ({"batch_sizes": []}, "batch_sizes must be numbers of at least 1"),
        ({"runtime": ["tflite"]}, "runtime must be of auto, onnxruntime, onnxruntime-tensorrt, tensorrt, openvino"),
        ({"rounds": 0}, "rounds"),
        (
            {"batch_sizes": [1, 10**14]},
            r"a batch of 100000000000000 images has 7\.68e\+07 GB, more .* smaller batch_sizes",
        ),
        ({"batch_sizes": [10**18]}, "smaller batch_sizes"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            guard.bench(exported("plain"), **given)
    with pytest.raises(ConfigError, match="artefacts must be one path or several"):
        guard.bench()


def test_on_the_command_line(exported: Callable[[str], Path], capsys: Any) -> None:
    arguments = [
        "bench",
        str(exported("plain")),
        "--batch-sizes",
        "1,2",
        "--threads",
        "1",
        "--rounds",
        "1",
        "--no-memory",
    ]
    with pytest.raises(SystemExit) as done:
        cli.main([*arguments, "--json"])
    assert not done.value.code
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1, 1, 2, 2]
    with pytest.raises(SystemExit) as done:
        cli.main(["bench", str(exported("plain")), "--batch-sizes", "many"])
    assert done.value.code == 2
    assert "must be numbers with commas, like 1,8,64, got 'many'" in capsys.readouterr().err
