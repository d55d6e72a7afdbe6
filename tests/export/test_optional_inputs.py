"""Thresholds per class and a temperature: torch, the exported graph by itself, and `Guard` decide the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import guard
from export import to_onnx
from export.optional_inputs import recalibrated
from guard.artefact import files as artefact
from guard.artefact.files import graph_bytes, read_onnx
from guard.artefact.onnx_defaults import graph_inputs
from guard.calibration.decision_rule import Decision
from guard.errors import ExportError, MissingExtraError, ParityError
from guard.runtimes import optional_inputs
from tests.conftest import Arrays
from tests.serving.conftest import colour_graph, colour_manifest

BOTH = {"class_offsets", "inverse_temperature"}
OPTIONS: dict[str, Any] = {"class_conditional": True, "min_class_images": 19, "temperature_scaling": True}


@pytest.fixture(scope="module")
def labels(four: Arrays) -> np.ndarray:
    """The true labels with every tenth wrong: a temperature needs mistakes, and digits are too easy for any."""
    labels = four[1].copy()
    labels[::10] = (labels[::10] + 1) % 4
    return labels


@pytest.fixture(scope="module")
def images(four: Arrays, noise: np.ndarray) -> np.ndarray:
    return np.concatenate([four[0], 255 - four[0][:60], noise])


def alone(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What another consumer of the file gets: ONNX Runtime, the images, nothing else."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def decides_alike(g: guard.Guard, path: Path, images: np.ndarray) -> None:
    """`g`, the loaded file and the bare file: flags bit for bit by the manifest's numbers, probabilities closely."""
    e = guard.load(path, device="cpu")
    here, loaded, bare = g.predict(images), e.predict(images), alone(path, images)
    m = e.manifest
    assert m.calibration == g.manifest.calibration
    assert m.temperature == g.manifest.temperature
    np.testing.assert_array_equal(bare["label"], here.label)
    np.testing.assert_array_equal(bare["ood_score"], loaded.ood_score)
    limits = m.calibration.class_thresholds[bare["label"]] if m.calibration.class_conditional else m.threshold
    for flags in (here.is_ood, loaded.is_ood, bare["ood_score"] > limits):
        np.testing.assert_array_equal(bare["is_ood"], flags)
    np.testing.assert_array_equal(loaded.thresholds, np.broadcast_to(np.float32(limits), len(images)))
    assert [v.threshold for v in loaded] == loaded.thresholds.tolist()
    np.testing.assert_array_equal(loaded.probabilities, bare["probabilities"])
    np.testing.assert_allclose(here.probabilities, bare["probabilities"], atol=3e-6)
    assert ((bare["is_ood"]) <= (loaded.p_value <= m.calibration.alpha)).all()


# ------------------------------------------------------------------------------------------- one truth for decisions


@pytest.mark.parametrize("score", ["energy", "msp"])
def test_torch_graph_and_file_decide_alike(
    score: str, trained: Callable[[str], Any], four: Arrays, labels: np.ndarray, images: np.ndarray, tmp_path: Path
) -> None:
    plain = guard.fit(trained("plain"), four, score=score, device="cpu")
    g = plain.calibrate(four[0], labels=labels, **OPTIONS)
    path = guard.export(g, tmp_path / "guard.onnx")
    e = guard.load(path, device="cpu")
    assert e.manifest.parity.flag_flips == 0
    assert optional_inputs(e.runtime) == BOTH
    decides_alike(g, path, images)
    before, after = plain.predict(images), g.predict(images)
    np.testing.assert_array_equal(after.ood_score, before.ood_score)
    np.testing.assert_allclose(alone(path, images)["ood_score"], before.ood_score, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.label, before.label)
    assert g.manifest.temperature.value != 1
    assert np.abs(after.probabilities - before.probabilities).max() > 0.01
    assert len(set(after.thresholds.tolist())) > 1
    assert g.manifest.calibration.class_counts == tuple(np.bincount(plain.predict(four[0]).label, minlength=4))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("class_offsets", {"class_conditional": True, "min_class_images": 19}),
        ("inverse_temperature", {"temperature_scaling": True}),
    ],
)
def test_a_graph_gets_only_the_inputs_it_needs(
    name: str, options: dict[str, Any], exported: Callable[[str], Path], four: Arrays, labels: np.ndarray,
    images: np.ndarray, tmp_path: Path,
) -> None:  # fmt: skip
    g = guard.load(exported("plain"), device="cpu").calibrate(four[0], labels=labels, **options)
    path = g.save(tmp_path / "guard.onnx")
    assert optional_inputs(guard.load(path, device="cpu").runtime) == {name}
    decides_alike(g, path, images)


def test_scores_on_the_threshold_are_decided_alike_by_graph_and_host(tmp_path: Path) -> None:
    """Thresholds and offsets whose float32 sums are exactly an image's score, and its two neighbours."""
    offsets = Decision.of(colour_manifest()).classes * [0.5]
    calibration = colour_manifest().calibration.model_copy(
        update={"class_offsets": tuple(offsets), "class_counts": (33,) * 3, "class_intervals": (None,) * 3}
    )
    manifest = colour_manifest().model_copy(update={"calibration": calibration})
    path = tmp_path / "colours.onnx"
    artefact.write_onnx(path, recalibrated(colour_graph(), manifest), manifest)
    with_inputs = guard.load(path, device="cpu").runtime
    artefact.write_onnx(tmp_path / "old.onnx", colour_graph(), manifest)
    without = guard.load(tmp_path / "old.onnx", device="cpu").runtime
    assert (optional_inputs(with_inputs), optional_inputs(without)) == ({"class_offsets"}, frozenset())
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    known = with_inputs.run(images)
    met = 0
    for i in range(60):
        target = np.float32(known.ood_score[i])
        target = [target, np.nextafter(target, np.float32(9)), np.nextafter(target, np.float32(-99))][i % 3]
        threshold = np.float32(generator.normal() * 10 ** generator.uniform(-3, 3))
        own = np.full(3, target - threshold, np.float32)
        met += threshold + own[0] == known.ood_score[i]
        decision = Decision(float(threshold), own, None, 3)
        names = optional_inputs(with_inputs)
        graph = decision.complete(with_inputs.run(images, float(threshold), **decision.inputs(names)), names)
        host = decision.complete(without.run(images, float(threshold)), frozenset())
        np.testing.assert_array_equal(graph.is_ood, host.is_ood)
        np.testing.assert_array_equal(graph.is_ood, graph.ood_score > (threshold + own)[graph.label])
    assert met >= 10


def test_another_threshold_for_one_call_keeps_the_offsets(
    trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays
) -> None:
    for g in (trained("plain"), guard.load(exported("plain"), device="cpu")):
        by_class = g.calibrate(four[0], class_conditional=True, min_class_images=19)
        offsets = np.float32(by_class.manifest.calibration.class_offsets)
        verdicts = by_class.predict(four[0], threshold=-1.25)
        np.testing.assert_array_equal(verdicts.thresholds, np.float32(-1.25) + offsets[verdicts.label])
        np.testing.assert_array_equal(verdicts.is_ood, verdicts.ood_score > verdicts.thresholds)
        assert verdicts.threshold == -1.25
        assert by_class.predict(four[0], threshold=-np.inf).is_ood.all()
        part = verdicts[3:5]
        assert [v.threshold for v in part] == verdicts.thresholds[3:5].tolist()


# ------------------------------------------------------------------------------- exported files are calibrated again


def test_an_exported_file_is_calibrated_in_memory_and_then_kept(
    exported: Callable[[str], Path], four: Arrays, labels: np.ndarray, images: np.ndarray, tmp_path: Path
) -> None:
    e = guard.load(exported("plain"), device="cpu")
    g = e.calibrate(four[0], labels=labels, **OPTIONS)
    assert g.runtime is e.runtime  # which has no inputs for it: done on the host
    path = g.save(tmp_path / "again.onnx")
    assert g.manifest.weights_sha256 != e.manifest.weights_sha256
    decides_alike(g, path, images)
    # back to one threshold: the graph keeps its inputs, with defaults that do nothing
    loaded = guard.load(path, device="cpu")
    pooled = loaded.calibrate(four[0], alpha=0.1, class_conditional=False)
    assert pooled.manifest.temperature == g.manifest.temperature  # left as it is
    flags = pooled.predict(images).is_ood
    np.testing.assert_array_equal(flags, pooled.predict(images).ood_score > np.float32(pooled.threshold))
    back = pooled.save(path)  # over itself
    decides_alike(pooled, back, images)
    np.testing.assert_array_equal(alone(back, images)["is_ood"], flags)
    assert len(onnx.load(back).graph.node) == len(onnx.load(g.save(tmp_path / "third.onnx")).graph.node)


def test_a_new_threshold_is_the_graphs_own_default(
    exported: Callable[[str], Path], four: Arrays, images: np.ndarray, tmp_path: Path
) -> None:
    g = guard.load(exported("plain"), device="cpu").calibrate(four[0][:200], alpha=0.3)
    path = g.save(tmp_path / "guard.onnx")
    decides_alike(g, path, images)
    assert len(read_onnx(path)[0]) != 0
    assert optional_inputs(guard.load(path, device="cpu").runtime) == frozenset()


def test_adding_inputs_needs_onnx_and_a_new_threshold_does_not(
    exported: Callable[[str], Path], four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "export.optional_inputs")
    e = guard.load(exported("plain"), device="cpu")
    e.calibrate(four[0], alpha=0.2).save(tmp_path / "pooled.onnx")
    by_class = e.calibrate(four[0], class_conditional=True, min_class_images=19)
    with pytest.raises(MissingExtraError, match=r"onnx \(needed to add class_offsets to the graph\) is not installed"):
        by_class.save(tmp_path / "by_class.onnx")
    assert not (tmp_path / "by_class.onnx").exists()


def test_a_run_folder_keeps_the_calibration(
    trained: Callable[[str], Any], four: Arrays, labels: np.ndarray, images: np.ndarray, tmp_path: Path
) -> None:
    g = trained("plain").calibrate(four[0], labels=labels, **OPTIONS)
    loaded = guard.load(g.save(tmp_path / "run"), device="cpu")
    assert loaded.manifest == g.manifest
    ours, theirs = g.predict(images), loaded.predict(images)
    for name in ("label", "probabilities", "ood_score", "is_ood", "p_value", "thresholds"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_file_of_format_version_1_still_loads(
    exported: Callable[[str], Path], four: Arrays, images: np.ndarray, tmp_path: Path
) -> None:
    """Its manifest has none of the new fields."""
    data, manifest = read_onnx(exported("plain"))
    content = json.loads(manifest.model_dump_json()) | {"format_version": 1}
    del content["temperature"]
    for name in ("class_offsets", "class_counts", "class_intervals", "min_class_images", "labels_base64"):
        del content["calibration"][name]
    body = graph_bytes(data) + artefact._entry(artefact.MANIFEST_KEY, json.dumps(content).encode())
    digest = artefact.hashlib.sha256(body).hexdigest().encode()
    old = tmp_path / "old.onnx"
    old.write_bytes(body + artefact._entry(artefact.DIGEST_KEY, digest))
    g = guard.load(old, device="cpu")
    np.testing.assert_array_equal(g.predict(images).is_ood, alone(exported("plain"), images)["is_ood"])
    again = g.calibrate(four[0], class_conditional=True, min_class_images=19)
    decides_alike(again, again.save(tmp_path / "new.onnx"), images)
    assert read_onnx(tmp_path / "new.onnx")[1].format_version == artefact.FORMAT_VERSION


# ---------------------------------------------------------------------------------------------------------- the graph


def test_a_default_guard_keeps_its_graph(exported: Callable[[str], Path]) -> None:
    data, manifest = read_onnx(exported("plain"))
    graph = graph_bytes(data)
    assert recalibrated(graph, manifest) == graph
    assert graph_inputs(graph) == {"images", "threshold"}


def test_the_graph_gets_four_nodes_and_says_what_its_inputs_are(
    trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays, labels: np.ndarray
) -> None:
    plain = graph_bytes(read_onnx(exported("plain"))[0])
    manifest = trained("plain").calibrate(four[0], labels=labels, **OPTIONS).manifest
    made = recalibrated(plain, manifest)
    assert recalibrated(made, manifest) == made  # twice changes nothing
    before, after = onnx.load_from_string(plain).graph, onnx.load_from_string(made).graph
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    types = [node.op_type for node in after.node]
    assert sorted(types) == sorted([*(node.op_type for node in before.node), "Gather", "Add", "Mul"])
    described = {i.name: (i.doc_string, [d.dim_value for d in i.type.tensor_type.shape.dim]) for i in after.input}
    assert described["class_offsets"][1] == [4]
    assert "threshold + class_offsets[label]" in described["class_offsets"][0]
    assert described["inverse_temperature"][1] == []
    assert "softmax(logits * inverse_temperature)" in described["inverse_temperature"][0]
    values = {i.name: numpy_helper.to_array(i) for i in after.initializer}
    assert values["threshold"] == np.float32(manifest.threshold)
    np.testing.assert_array_equal(values["class_offsets"], np.float32(manifest.calibration.class_offsets))
    assert values["inverse_temperature"] == np.float32(1 / manifest.temperature.value)


def test_a_score_that_shares_the_softmax_keeps_it(
    trained: Callable[[str], Any], four: Arrays, labels: np.ndarray
) -> None:
    """The exporter computes softmax(logits) once for msp and for the probabilities."""
    g = guard.fit(trained("plain"), four, score="msp", device="cpu")
    graph = to_onnx.onnx_bytes(g.module, g.manifest)
    made = recalibrated(graph, g.calibrate(four[0], labels=labels, temperature_scaling=True).manifest)
    before, after = ([n for n in onnx.load_from_string(m).graph.node if n.op_type == "Softmax"] for m in (graph, made))
    assert len(before) == 1
    assert [n.output[0] for n in after] == ["guard.untempered_probabilities", "probabilities"]


def test_a_graph_that_is_built_otherwise_is_refused(
    exported: Callable[[str], Path], trained: Any, four: Arrays
) -> None:
    manifest = trained("plain").calibrate(four[0], class_conditional=True, min_class_images=19).manifest
    model = onnx.load_from_string(graph_bytes(read_onnx(exported("plain"))[0]))
    for node in model.graph.node:
        if "is_ood" in node.output:
            node.op_type = "GreaterOrEqual"
    with pytest.raises(ExportError, match="is_ood must come from Not or Greater, it comes from GreaterOrEqual"):
        recalibrated(model.SerializeToString(), manifest)


def test_an_export_whose_own_defaults_decide_otherwise_fails(
    trained: Callable[[str], Any], four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are right in the manifest, and `Guard` would feed them: the file is verified without."""
    g = trained("plain").calibrate(four[0], class_conditional=True, min_class_images=19, alpha=0.2)
    monkeypatch.setattr(to_onnx, "recalibrated", lambda graph, _: graph)
    with pytest.raises(ParityError, match="images change their label or flag"):
        guard.export(g, tmp_path / "guard.onnx", data=four[0])
