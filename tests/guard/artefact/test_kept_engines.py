"""Engines that are built of an .onnx file: what they are built of, and how long they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

import guard
from guard.artefact.files import engine_source_path, write_onnx
from guard.exported import Exemplar, Exemplars
from tests.fake_tensorrt import Config
from tests.guard.artefact.conftest import OTHER, Machine
from tests.serving.conftest import colour_graph, colour_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


def explained(path: Path) -> None:
    """A guard with exemplars, whose graph has the output that they are compared by."""
    model = onnx.load_from_string(colour_graph())
    model.graph.node.append(onnx.helper.make_node("Identity", ["probabilities"], ["embedding"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 3]))
    shown = Exemplars(images=(Exemplar(label=0, jpeg_base64=""),), embeddings_base64="ADwAAAAA")
    manifest = colour_manifest().model_copy(update={"exemplars": shown})
    write_onnx(path, model.SerializeToString(), manifest)


def test_a_file_that_explains_runs_as_an_engine(source: Path, on: Machine, tmp_path: Path, monkeypatch: Any) -> None:
    """Which has the four answers alone, and no exemplars; one that was built with more is built again."""
    on()
    expected = guard.load(source, device="cpu").predict(IMAGES)
    explained(source)
    path = tmp_path / "guard.engine"
    with monkeypatch.context() as older:
        older.setattr("export.to_tensorrt.engine_graph", lambda graph: graph)
        older.setattr("export.api._engine_parity", lambda *_: None)
        guard.export(source, path)
    beside = guard.load(engine_source_path(path), device="cpu")
    assert beside.runtime.extra_outputs == ("embedding",)
    assert beside.manifest.exemplars is not None
    for built in (path, guard.export(source, tmp_path / "new.engine")):
        g = guard.load(built)
        assert g.manifest.exemplars is None
        np.testing.assert_array_equal(g.predict(IMAGES).ood_score, expected.ood_score)
        assert (built == path) == bool(list(tmp_path.glob(f"{built.stem}-*.engine")))
    g = guard.load(source, runtime="tensorrt").calibrate(IMAGES, alpha=0.5)
    g.save(source)
    assert guard.load(source, device="cpu").manifest.exemplars is not None


def test_what_was_built_is_kept_by_what_it_is_built_of(source: Path, on: Machine, tmp_path: Path) -> None:
    """Whatever the files are called, and however often they are calibrated anew."""
    on()
    cache = tmp_path / "cache"
    other = tmp_path / "other" / source.name
    write_onnx(other, colour_graph().replace(b"colours", b"Colours"), colour_manifest())
    small = guard.export(source, tmp_path / "guard.engine", max_batch=4)
    Config.made.clear()

    def loaded(path: Path) -> guard.Guard:
        return guard.load(path, runtime="tensorrt", cache=cache)

    by_class = {"class_conditional": True, "min_class_images": 2, "alpha": 0.5}
    for place, options in ((source, {"alpha": 0.5}), (other, {"alpha": 0.2}), (source, by_class)):
        made = loaded(place).calibrate(IMAGES, **options)
        made.save(place)
        again = loaded(place)
        assert again.threshold == made.threshold
        np.testing.assert_array_equal(again.predict(IMAGES).is_ood, made.predict(IMAGES).is_ood)
    on()
    for place in (source, other, source, other):
        loaded(place)
    assert len(Config.made) == 3  # two files, and the inputs that a calibration by class needs
    on(OTHER)
    assert loaded(small).manifest.engine.max_batch == 4
    assert loaded(source).manifest.engine.max_batch == 256
