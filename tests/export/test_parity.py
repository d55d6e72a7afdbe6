"""An exported file decides as its source does: every score on every head, in numbers and flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import guard
from export import to_onnx
from export.parity import compare
from guard.artefact.files import graph_bytes, read_onnx
from guard.errors import ConfigError, ParityError
from guard.scores import get_score, list_scores
from tests.conftest import Arrays
from tests.train.models import Convolutional

FITTED = [
    name
    for name in list_scores()
    if not get_score(name).trained_by and not get_score(name).no_export and "extra class" not in get_score(name).needs
]
GUARDS = [f"{head}/{score}" for head in ("plain", "cosine") for score in FITTED] + [
    "vos", "c_plus_1", "rejection", "rejection-map",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(four: Arrays, noise: np.ndarray) -> np.ndarray:
    """Digits, inverted digits, noise, black and white: scores on both sides of any threshold."""
    flat = np.stack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)])
    return np.concatenate([four[0][:120], 255 - four[0][:60], noise, flat])


def made(name: str, trained: Callable[[str], Any], four: Arrays) -> guard.Guard:
    head, _, score = name.partition("/")
    return guard.fit(trained(head), four, score=score, device="cpu") if score else trained(head)


@pytest.mark.parametrize("name", GUARDS)
def test_every_score_on_every_head(
    name: str, trained: Callable[[str], Any], four: Arrays, images: np.ndarray, tmp_path: Path
) -> None:
    g = made(name, trained, four)
    path = guard.export(g, tmp_path / "guard.onnx")
    e = guard.load(path, device="cpu")
    assert e.manifest.parity.flag_flips == 0
    assert e.manifest.parity.images == g.manifest.calibration.n
    ours, theirs = g.predict(images), e.predict(images)
    np.testing.assert_array_equal(ours.label, theirs.label)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=2e-6)
    scale = 1 + np.abs(ours.ood_score)
    # a covariance of condition 1e4 enlarges what float32 rounds, and so does a statistic's bound near 0, by which gram
    # divides: this network has shown 2.5e-3 where it was trained in bf16, real ones 6e-4 (benchmarks/results)
    looser = 100 if "gram" in name else 10 if "mahalanobis" in name else 1
    assert (np.abs(theirs.ood_score - ours.ood_score) / scale).max() < 1e-4 * looser
    np.testing.assert_array_equal(ours.is_ood, theirs.is_ood)
    np.testing.assert_array_equal(theirs.is_ood, theirs.ood_score > g.threshold)
    # decisions do not depend on the batch
    single = np.concatenate([e.predict(images[i : i + 1]).ood_score for i in range(0, len(images), 9)])
    np.testing.assert_allclose(single, theirs.ood_score[::9], rtol=1e-4, atol=1e-4)


def test_a_model_of_the_users_own_exports(four: Arrays, images: np.ndarray, tmp_path: Path) -> None:
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": "cpu"}
    g = guard.fit(Convolutional(), four, score="knn", score_options={"k": 5}, features="body.1", **options)
    e = guard.load(guard.export(g, tmp_path / "guard.onnx"), device="cpu")
    np.testing.assert_allclose(e.predict(images).ood_score, g.predict(images).ood_score, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ the graph


def test_the_graph_is_the_contract(exported: Callable[[str], Path], trained: Callable[[str], Any]) -> None:
    """The input and output names that a guard's graph promises."""
    data = read_onnx(exported("plain"))[0]
    model = onnx.load_from_string(graph_bytes(data))
    onnx.checker.check_model(model, full_check=True)

    def signature(values: Any) -> dict[str, tuple[str, list[Any]]]:
        return {
            v.name: (
                onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type),
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    assert signature(model.graph.input) == {"images": ("UINT8", ["batch", 16, 16, 3]), "threshold": ("FLOAT", [])}
    assert signature(model.graph.output) == {
        "label": ("INT64", ["batch"]),
        "probabilities": ("FLOAT", ["batch", 4]),
        "ood_score": ("FLOAT", ["batch"]),
        "is_ood": ("BOOL", ["batch"]),
    }
    baked = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}["threshold"]
    assert baked == np.float32(trained("plain").threshold)
    types = [node.op_type for node in model.graph.node]
    assert "Resize" not in types
    if "Transpose" in types:  # TensorRT has no uint8 transpose
        assert types.index("Cast") < types.index("Transpose")


def test_the_file_holds_nothing_of_the_machine_it_was_made_on(exported: Callable[[str], Path]) -> None:
    data = exported("plain").read_bytes()
    for text in (str(Path(__file__).parents[2]), str(Path.home()), "site-packages", "/tmp/", "stack_trace", ".py"):
        assert text.encode() not in data, text
    assert [p.suffix for p in exported("plain").parent.iterdir() if "plain" in p.name] == [".onnx"]  # one file


def test_two_exports_of_one_guard_are_the_same_bytes(
    trained: Callable[[str], Any], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    again = guard.export(trained("plain"), tmp_path / "again.onnx")
    assert again.read_bytes() == exported("plain").read_bytes()


def test_the_threshold_is_an_input_with_a_default(exported: Callable[[str], Path], images: np.ndarray) -> None:
    e = guard.load(exported("plain"), device="cpu")
    scores = e.predict(images).ood_score
    default = e.runtime.run(images)
    np.testing.assert_array_equal(default.is_ood, scores > e.threshold)
    for threshold in (float(np.median(scores)), -np.inf, np.inf):
        np.testing.assert_array_equal(e.predict(images, threshold=threshold).is_ood, scores > np.float32(threshold))


def test_a_new_calibration_is_kept_without_torch(exported: Callable[[str], Path], four: Arrays, tmp_path: Path) -> None:
    e = guard.load(exported("plain"), device="cpu")
    again = e.calibrate(four[0][:200], alpha=0.2)
    path = again.save(tmp_path / "again.onnx")
    loaded = guard.load(path, device="cpu")
    assert loaded.threshold == again.threshold != e.threshold
    assert loaded.manifest.calibration.alpha == 0.2
    assert loaded.predict(four[0][:200]).is_ood.mean() <= 0.2


def test_export_from_a_run_folder_and_of_an_exported_guard(
    trained: Callable[[str], Any], exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = trained("plain").save_pretrained(tmp_path / "run")
    path = guard.export(folder, tmp_path / "deep" / "guard.onnx")  # no calibration images at hand: verified on noise
    assert guard.load(path, device="cpu").manifest.parity.images == 128
    with pytest.raises(ConfigError, match="runs on onnxruntime and has no torch module; load its run folder instead"):
        guard.export(exported("plain"), tmp_path / "again.onnx")


# ------------------------------------------------------------------------------------------- a file that disagrees


def nudged(data: bytes, name: str, by: Any) -> bytes:
    """The graph with one float initializer changed."""
    model = onnx.load_from_string(data)
    for initializer in model.graph.initializer:
        if initializer.name.endswith(name):
            initializer.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(initializer) + np.float32(by), initializer.name)
            )
            return model.SerializeToString()
    raise AssertionError(f"no initializer {name}: {[i.name for i in model.graph.initializer]}")


@pytest.mark.parametrize("by", [0.5, np.array([9.0, 0, 0, 0])], ids=["every score", "one label"])
def test_an_export_that_decides_otherwise_fails_and_writes_nothing(
    by: Any,
    trained: Callable[[str], Any],
    exported: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = nudged(graph_bytes(read_onnx(exported("plain"))[0]), "head.linear.bias", by)
    monkeypatch.setattr(to_onnx, "onnx_bytes", lambda *_, **__: graph)
    path = tmp_path / "guard.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(ParityError, match=r"\d+ of 100 images change their label or flag .* \(allowed: 0; largest"):
        guard.export(trained("plain"), path)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]
    guard.export(trained("plain"), path, max_flag_flips=100)  # who can live with that may have it
    assert guard.load(path, device="cpu").manifest.parity.flag_flips > 0


def test_scores_that_are_not_finite_fail(
    trained: Callable[[str], Any], exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = nudged(graph_bytes(read_onnx(exported("plain"))[0]), "head.linear.bias", np.float32("nan"))
    monkeypatch.setattr(to_onnx, "onnx_bytes", lambda *_, **__: graph)
    with pytest.raises(ParityError, match="not finite"):
        guard.export(trained("plain"), tmp_path / "guard.onnx")
    assert not list(tmp_path.iterdir())


def test_the_report_counts_by_hand(
    trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays
) -> None:
    """Against the same guard at another threshold, and another guard altogether."""
    e = guard.load(exported("plain"), device="cpu")
    stricter = e.calibrate(four[0][:200], alpha=0.3)
    report = guard.verify(stricter, against=trained("plain"), data=four, max_flag_flips=400)
    ours, theirs = trained("plain").predict(four[0]), stricter.predict(four[0])
    assert report.images == 400
    assert report.flag_flips == (ours.is_ood != theirs.is_ood).sum() > 0
    assert report.label_changes == 0
    assert report.false_alarm_rate == (ours.is_ood.mean(), theirs.is_ood.mean())
    assert report.accuracy == ((ours.label == four[1]).mean(), (theirs.label == four[1]).mean())
    assert report.max_relative_score_difference < 5e-5  # ViM's own float32 rounding reaches 1e-5
    assert report.auroc_between == pytest.approx(0.5, abs=1e-3)
    other = compare(trained("plain"), trained("vos"), [four[0][:50], four[0][50:90]], None)
    a, b = (trained(name).predict(four[0][:90]) for name in ("plain", "vos"))
    assert other.label_changes == (a.label != b.label).sum()
    assert other.flag_flips == ((a.label != b.label) | (a.is_ood != b.is_ood)).sum()
    assert other.max_score_difference == pytest.approx(np.abs(a.ood_score - b.ood_score).max(), rel=1e-4)
    assert other.accuracy is None
    with pytest.raises(ParityError, match="of 400 images change"):
        guard.verify(stricter, against=trained("plain"), data=four)


def test_verify_takes_images_in_any_form(
    trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays, tmp_path: Path
) -> None:
    images = four[0][:12]
    for i, image in enumerate(images):
        path = tmp_path / "flat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
        nested = tmp_path / "classes" / str(four[1][i]) / f"{i}.png"
        nested.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(nested)
    options = {"against": trained("plain")}
    accuracy = guard.verify(exported("plain"), data=(images, four[1][:12]), **options).accuracy
    assert accuracy is not None
    assert guard.verify(exported("plain"), data=tmp_path / "classes", **options).accuracy == accuracy
    for data in (images, list(images), tmp_path / "flat", str(tmp_path / "flat"), [tmp_path / "flat" / "0.png"]):
        report = guard.verify(exported("plain"), data=data, **options)
        assert report.accuracy is None
        assert report.images == (1 if isinstance(data, list) and not isinstance(data[0], np.ndarray) else 12)


def test_verify_refuses_two_guards_that_have_nothing_to_do_with_each_other(
    trained: Callable[[str], Any],
    exported: Callable[[str], Path],
    four: Arrays,
    digits: Callable[[str], Arrays],
    tiny: Any,
) -> None:
    other = guard.train(digits("0-1"), **{**tiny, "epochs": 1})
    with pytest.raises(ConfigError, match=r"the two guards know different classes: 0, 1 .* and 0, 1, 2, 3"):
        guard.verify(exported("plain"), against=other, data=four)
    larger = guard.train(four, image_size=20, **{**tiny, "epochs": 1})
    with pytest.raises(ConfigError, match="the two guards prepare images differently"):
        guard.verify(exported("plain"), against=larger, data=four)


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        ("guard.pt", {}, r"must end in \.onnx or \.engine, got 'guard\.pt'"),
        ("guard", {}, r"must end in \.onnx or \.engine, got 'guard'"),
        ("guard.onnx", {"precision": "fp8"}, "precision must be one of .*int8.*, got 'fp8'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    path: str, options: Any, sentence: str, trained: Callable[[str], Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        guard.export(trained("plain"), tmp_path / path, **options)


def test_of_the_data_it_was_made_from_an_export_verifies_on_what_was_held_out(
    trained: Callable[[str], Any], four: Arrays, tmp_path: Path
) -> None:
    g = trained("plain")
    calibration = g.manifest.calibration
    parity = guard.load(guard.export(g, tmp_path / "guard.onnx", data=four)).manifest.parity
    assert parity is not None
    assert parity.images == calibration.n < len(four[0])
