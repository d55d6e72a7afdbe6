"""A guard below float32 has thresholds of its own, keeps to its budget, and says what it changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import guard
from export.parity import _allowed, may_be_lost
from export.precision.calibrated import BATCH
from export.precision.stand_ins import scrambled, smooth, stand_ins
from guard.errors import ConfigError, ExportError, RuntimeUnavailableError
from guard.export_requests import VerifyRequest
from guard.exported import PrecisionChange
from tests.conftest import Arrays

BELOW = ["fp16", "bf16", "int8"]


def opened(path: Path) -> Any:
    """bf16 has no kernels in ONNX Runtime for the CPU."""
    return guard.load(path, device="cpu", runtime="openvino" if "bf16" in path.name else "auto")


@pytest.fixture(scope="module")
def files(trained: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("precision")
    return {p: guard.export(trained("plain"), folder / f"{p}.onnx", precision=p) for p in ["fp32", *BELOW]}


@pytest.mark.parametrize("precision", BELOW)
def test_it_is_calibrated_on_its_own_scores(
    precision: str, files: dict[str, Path], trained: Callable[[str], Any]
) -> None:
    g = opened(files[precision])
    source = trained("plain")
    own, was = g.manifest.calibration, source.manifest.calibration
    assert (own.alpha, own.n, own.rate_low, own.rate_high) == (was.alpha, was.n, was.rate_low, was.rate_high)
    assert own.threshold != was.threshold
    held = np.concatenate([batch for batch, _ in source.calibration_images.batches(64)])
    scores = np.sort(g.predict_batches([held]).ood_score)
    tolerance = {"fp16": 0.02, "bf16": 0.3, "int8": 1e-5}[precision]  # ONNX Runtime and OpenVINO round less often
    np.testing.assert_allclose(own.scores, scores, atol=tolerance)
    assert g.manifest.precision == precision
    assert own.rate_low < g.predict_batches([held]).is_ood.mean() < own.rate_high


@pytest.mark.parametrize("precision", BELOW)
def test_the_manifest_says_what_it_changes(
    precision: str, files: dict[str, Path], trained: Callable[[str], Any], four: Arrays
) -> None:
    """The numbers of the card, measured again with the two files."""
    exact, g = guard.load(files["fp32"], device="cpu"), opened(files[precision])
    held = trained("plain").calibration_images
    batch = np.concatenate([part for part, _ in held.batches(64)])
    a, b = exact.predict_batches([batch]), g.predict_batches([batch])
    change = g.manifest.precision_change
    assert change.images == len(batch)
    slack = 1e-9 if precision == "int8" else 0.05  # ONNX Runtime and OpenVINO round less often
    assert change.accuracy == pytest.approx(
        ((a.label == held.labels).mean(), (b.label == held.labels).mean()), abs=slack
    )
    assert change.false_alarm_rate == pytest.approx((a.is_ood.mean(), b.is_ood.mean()), abs=slack)
    pieces = np.concatenate([stand_ins(part, number) for number, (part, _) in enumerate(held.batches(BATCH))])

    def auroc(mine: Any, verdicts: Any) -> float:
        other = mine.predict_batches([pieces]).ood_score
        return float(((verdicts.ood_score[:, None] < other) + 0.5 * (verdicts.ood_score[:, None] == other)).mean())

    assert change.auroc == pytest.approx((auroc(exact, a), auroc(g, b)), abs=max(slack, 1e-6))
    flips = int(((a.is_ood != b.is_ood) | (a.label != b.label)).sum())
    assert change.flag_flips == pytest.approx(flips, abs=0 if precision == "int8" else 3)
    assert exact.manifest.precision_change is None


@pytest.mark.parametrize("precision", BELOW)
def test_verify_allows_what_the_precision_may_change(
    precision: str, files: dict[str, Path], trained: Callable[[str], Any], four: Arrays
) -> None:
    report = guard.verify(opened(files[precision]), against=trained("plain"), data=four)
    assert report.images == len(four[0])
    assert report.accuracy[1] > report.accuracy[0] - 0.005
    assert report.flag_flips <= {"fp16": 0.01, "bf16": 0.02, "int8": 0.05}[precision] * report.images


@pytest.mark.parametrize(
    ("precision", "images", "expected"),
    [("fp32", 10_000, 0), ("fp16", 30, 1), ("fp16", 250, 2), ("bf16", 250, 5), ("int8", 10, 1), ("int8", 250, 12)],
)
def test_of_few_images_one_may_change_below_float32(
    precision: str, images: int, expected: int, trained: Callable[[str], Any]
) -> None:
    exact = trained("plain")
    g = guard.detector.Guard(exact.manifest.model_copy(update={"precision": precision}), exact.runtime)
    request = VerifyRequest(path="a", against="b", data="c")
    assert _allowed(request, images, exact, g) == expected


def test_a_file_of_float32_will_do_with_data(files: dict[str, Path], four: Arrays, tmp_path: Path) -> None:
    """The same file as from the guard itself: its held-out images are drawn again."""
    path = guard.export(files["fp32"], tmp_path / "int8.onnx", precision="int8", data=four)
    again, before = guard.load(path, device="cpu"), guard.load(files["int8"], device="cpu")
    assert again.manifest.calibration == before.manifest.calibration
    assert again.manifest.precision_change == before.manifest.precision_change


def test_it_needs_no_torch(files: dict[str, Path], four: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "four.npz", images=four[0], labels=four[1])
    code = f"""
import sys, numpy as np, guard
sys.modules["torch"] = None
data = np.load({str(tmp_path / "four.npz")!r})
guard.export({str(files["fp32"])!r}, {str(tmp_path / "int8.onnx")!r}, precision="int8",
             data=(data["images"], data["labels"]))
assert "torch" not in [name for name, module in sys.modules.items() if module is not None]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert guard.load(tmp_path / "int8.onnx", device="cpu").manifest.precision == "int8"


def test_by_class_stays_by_class(trained: Callable[[str], Any], four: Arrays, tmp_path: Path) -> None:
    g = guard.calibrate(trained("plain"), four, alpha=0.1, class_conditional=True, min_class_images=19)
    path = guard.export(g, tmp_path / "int8.onnx", precision="int8", data=four)
    own = guard.load(path, device="cpu").manifest.calibration
    assert own.class_conditional
    assert own.min_class_images == 19
    assert own.class_counts == g.manifest.calibration.class_counts
    assert own.class_offsets != g.manifest.calibration.class_offsets


def test_layers_come_back_to_float32_until_the_budget_holds(
    trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network that int8 harms: one channel of its first layers reaches far beyond the others."""
    from export.precision import calibrated, integers

    original = integers.Quantiser.quantised

    def harmed(self: Any, kept: Any = ()) -> bytes:
        spoilt = [layer for layer in self.layers[3:5] if layer not in kept]
        return spoil(original(self, kept), 4 * len(spoilt))

    monkeypatch.setattr(calibrated.Quantiser, "quantised", harmed)
    path = guard.export(trained("plain"), tmp_path / "g.onnx", precision="int8")
    change = guard.load(path, device="cpu").manifest.precision_change
    layers = integers.Quantiser(graph_of(trained("plain")), [], "cpu").layers
    assert set(layers[3:5]) <= set(change.layers_in_fp32)
    assert len(change.layers_in_fp32) in (2, 4)
    assert change.layers == len(layers)
    assert change.weight_bits == 7  # target "cpu"


def graph_of(g: Any) -> bytes:
    from export.to_onnx import onnx_bytes

    return onnx_bytes(g.module, g.manifest)


def spoil(graph: bytes, by: int) -> bytes:
    """Noise on the last scale of the graph's first linear layer, more with `by`."""
    import onnx
    from onnx import numpy_helper

    if not by:
        return graph
    model = onnx.load_from_string(graph)
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    for initializer in model.graph.initializer:
        if initializer.name == gemm.input[1]:
            weight = numpy_helper.to_array(initializer)
            noise = np.random.default_rng(by).normal(0, by * weight.std(), weight.shape)
            initializer.CopyFrom(numpy_helper.from_array((weight + noise).astype(np.float32), initializer.name))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("most", "images", "expected"),
    [(0.005, 100, 0.01), (0.005, 1000, 0.005), (0.0, 100, 0.0), (0.3, 2, 0.5), (0.2, 0, 0.2)],
)
def test_one_image_may_be_lost_unless_none_may(most: float, images: int, expected: float) -> None:
    """Of 100 images one is a hundredth, and says nothing of half a hundredth."""
    assert may_be_lost(most, images) == expected


def test_a_loss_beyond_the_budget_is_refused(
    trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever layers come back. Nothing is written."""
    from export.precision import calibrated, integers

    original = integers.Quantiser.quantised
    monkeypatch.setattr(calibrated.Quantiser, "quantised", lambda self, kept=(): spoil(original(self, kept), 9))
    with pytest.raises(
        ExportError, match=r"int8 loses too much with \d of \d+ layers in float32: .*accuracy"
    ) as caught:
        guard.export(trained("plain"), tmp_path / "g.onnx", precision="int8")
    assert "raise max_accuracy_loss or max_auroc_loss only if" in str(caught.value)
    assert not (tmp_path / "g.onnx").exists()
    path = guard.export(
        trained("plain"),
        tmp_path / "g.onnx",
        precision="int8",
        max_accuracy_loss=1,
        max_auroc_loss=1,
        max_flag_flips=999,
    )
    assert guard.load(path, device="cpu").manifest.precision_change.layers_in_fp32 == ()


@pytest.mark.parametrize("name", ["fp16.onnx", "bf16.onnx", "int8.onnx", "int8.engine", "models"])
def test_flags_that_flip_beyond_the_budget_are_refused(
    name: str, trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the manifest would say of the file, whether or not ONNX Runtime can run it here."""
    from export.precision import calibrated

    original = calibrated._Lowering._measured

    def flipped(self: Any, *given: Any) -> Any:
        found = original(self, *given)
        change = found.manifest.precision_change.model_copy(update={"flag_flips": 3})
        return calibrated.Lowered(found.graph, found.manifest.model_copy(update={"precision_change": change}))

    monkeypatch.setattr(calibrated._Lowering, "_measured", flipped)
    precision = name.split(".")[0] if "." in name else "bf16"
    options = {"precision": precision, "format": "auto" if "." in name else "triton"}
    with pytest.raises(ExportError, match=r": 3 of \d+ images .* \(allowed: 2\); raise max_flag_flips only if"):
        guard.export(trained("plain"), tmp_path / name, max_flag_flips=2, **options)
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_float16_are_named(trained: Callable[[str], Any], tmp_path: Path) -> None:
    import copy

    g = trained("plain")
    module = copy.deepcopy(g.module)
    first = next(m for m in module.classifier.backbone.modules() if hasattr(m, "weight") and m.weight.ndim == 4)
    first.weight.data *= 1e6
    runtime = type(g.runtime)(module, g.manifest.preprocess, "cpu")
    large = type(g)(g.manifest, runtime, calibration_images=g.calibration_images)
    with pytest.raises(ExportError, match="overflow fp16; export it with precision='bf16'"):
        guard.export(large, tmp_path / "g.onnx", precision="fp16")


def test_bf16_on_the_cpu_is_refused_by_onnx_runtime(files: dict[str, Path]) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"computes in bfloat16, which ONNX Runtime does on CUDA alone"):
        guard.load(files["bf16"], device="cpu")


def test_what_it_needs_is_said(files: dict[str, Path], trained: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes a threshold of its own, and no in-distribution images are at hand"):
        guard.export(files["fp32"], tmp_path / "g.onnx", precision="int8")
    with pytest.raises(ConfigError, match="the guard is in int8 already; give the float32 one"):
        guard.export(files["int8"], tmp_path / "g.onnx", precision="fp16")
    g = trained("plain")
    bare = g._with(g.manifest.model_copy(update={"calibration": None}))
    with pytest.raises(ConfigError, match="has no threshold yet"):
        guard.export(bare, tmp_path / "g.onnx", precision="int8")
    assert not (tmp_path / "g.onnx").exists()


def test_scrambled_images_keep_their_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 13, 18, 3), dtype=np.uint8)
    moved = scrambled(images, 4)
    assert moved.shape == images.shape
    assert (moved != images).any()
    np.testing.assert_array_equal(np.sort(moved, axis=None), np.sort(images, axis=None))
    np.testing.assert_array_equal(moved[:, 12:], images[:, 12:])
    np.testing.assert_array_equal(moved, scrambled(images, 4))
    blocks = {images[0, 3 * r : 3 * r + 3, 4 * c : 4 * c + 4].tobytes() for r in range(4) for c in range(4)}
    assert blocks == {moved[0, 3 * r : 3 * r + 3, 4 * c : 4 * c + 4].tobytes() for r in range(4) for c in range(4)}


@pytest.mark.parametrize("channels", [1, 3])
def test_stand_ins_are_of_three_kinds(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 24, channels), dtype=np.uint8)
    made = stand_ins(images)
    assert (made.shape, made.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(made[0::3], scrambled(images[0::3], 4))
    np.testing.assert_array_equal(made[1::3], scrambled(images[1::3], 8))
    np.testing.assert_array_equal(made[2::3], smooth((2, 16, 24, channels)))
    steps = np.abs(np.diff(made[2::3].astype(int), axis=2)).mean()
    assert 0 < steps < np.abs(np.diff(images.astype(int), axis=2)).mean() / 2
    assert stand_ins(images[:1]).shape == images[:1].shape
    assert (stand_ins(images, 1)[2::3] != made[2::3]).any()  # a batch after another has other noise


def test_exemplars_and_triton_take_it(trained: Callable[[str], Any], tmp_path: Path) -> None:
    for precision in ("int8", "bf16"):
        path = guard.export(trained("plain"), tmp_path / f"{precision}.onnx", precision=precision, exemplars=1)
        assert opened(path).manifest.exemplars is not None
    model = guard.export(trained("plain"), tmp_path / "models" / "digits", format="triton", precision="fp16")
    (inside,) = model.rglob("*.onnx")
    assert guard.load(inside, device="cpu").manifest.precision == "fp16"


def test_the_card_travels(files: dict[str, Path]) -> None:
    change = guard.load(files["int8"], device="cpu").manifest.precision_change
    assert PrecisionChange.model_validate_json(change.model_dump_json()) == change


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_for_tensorrt_computes_on_a_cpu_what_its_graph_says(
    runtime: Any, trained: Callable[[str], Any], four: Arrays, tmp_path: Path
) -> None:
    """Its weights have 8 bits, whose products int8 kernels of x86 without VNNI do not hold; its thresholds come from
    such a run."""
    path = guard.export(trained("plain"), tmp_path / "int8.onnx", precision="int8", target="tensorrt")
    unfused = ort.SessionOptions()
    unfused.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, unfused, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["ood_score"], {"images": four[0]})
    g = guard.load(path, device="cpu", runtime=runtime)
    found = g.predict(four[0]).ood_score
    assert np.abs(found - expected).mean() < 0.005 * expected.std()  # some values are rounded to the next level
