"""Files that explain: the four answers stay, and the outputs beside them are what torch computes."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import guard
from guard.detector import Guard
from guard.errors import ConfigError
from guard.explanation import EMBEDDING, NEAREST, SURPRISES, explain, unit
from tests.export.test_graft import fitted

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def source(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """A network that learnt nothing but its last layer, by least squares: quick, and right on most of its images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    with torch.no_grad():
        features = network(torch.from_numpy(four[0]).permute(0, 3, 1, 2) / 255)
        targets = nn.functional.one_hot(torch.from_numpy(four[1]), 4).float() - 0.25
        last = nn.Linear(features.shape[1], 4)
        last.weight.copy_(8 * torch.linalg.lstsq(features, targets).solution.T)
        last.bias.zero_()
    run = tmp_path_factory.mktemp("explained") / "run"
    numbers = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "device": "cpu"}
    return guard.fit(nn.Sequential(network, last), four, score="energy+knn", out=run, **numbers)


@pytest.fixture(scope="module")
def files(source: Guard, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    plain = guard.export(source, folder / "plain.onnx")
    return plain, guard.export(source, folder / "explained.onnx", exemplars=2)


def test_the_answers_stay_what_they_were(files: tuple[Path, Path], four: Arrays) -> None:
    plain, explained = (guard.load(path, device="cpu").predict(four[0][:50]) for path in files)
    np.testing.assert_array_equal(plain.is_ood, explained.is_ood)
    np.testing.assert_array_equal(plain.label, explained.label)
    np.testing.assert_allclose(plain.ood_score, explained.ood_score, atol=1e-5)
    np.testing.assert_allclose(plain.probabilities, explained.probabilities, atol=1e-6)


def test_a_file_that_was_not_asked_has_the_contracts_outputs_only(files: tuple[Path, Path]) -> None:
    plain, explained = (onnx.load(path).graph for path in files)
    contract = ["label", "probabilities", "ood_score", "is_ood"]
    assert [o.name for o in plain.output] == contract
    assert [o.name for o in explained.output] == [*contract, EMBEDDING, SURPRISES]
    extra = len(explained.node) - len(plain.node)
    assert extra <= 2  # nothing is computed twice


def test_the_extra_outputs_are_the_networks(source: Guard, files: tuple[Path, Path], four: Arrays) -> None:
    loaded = guard.load(files[1], device="cpu")
    found = loaded.runtime.extra(four[0][:20])  # type: ignore[attr-defined]
    with torch.no_grad():
        outputs = source.module.outputs(torch.from_numpy(four[0][:20]))
        parts: Any = source.module.score
        expected = [parts.surprises(*outputs)[j].numpy() for j in range(2)]
    np.testing.assert_allclose(found[EMBEDDING], outputs.features.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[SURPRISES], expected, atol=1e-3)
    score = loaded.predict(four[0][:20]).ood_score
    np.testing.assert_allclose(found[SURPRISES].sum(0), score, atol=1e-4)


def test_every_class_has_its_exemplars_and_they_are_images_of_it(files: tuple[Path, Path]) -> None:
    loaded = guard.load(files[1], device="cpu")
    exemplars = loaded.manifest.exemplars
    assert exemplars is not None
    labels = [e.label for e in exemplars.images]
    assert labels == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(np.linalg.norm(exemplars.embeddings, axis=1), 1, atol=2e-3)
    pictures = [Image.open(io.BytesIO(base64.b64decode(e.jpeg_base64))).convert("RGB") for e in exemplars.images]
    assert {p.size for p in pictures} == {(16, 16)}
    assert loaded.predict(pictures).label.tolist() == labels
    assert guard.load(files[0], device="cpu").manifest.exemplars is None


def test_an_explanation_orders_them_by_similarity(files: tuple[Path, Path], four: Arrays) -> None:
    loaded = guard.load(files[1], device="cpu")
    image = four[0][4]
    found = explain(loaded, image)
    assert found.verdict == loaded.predict(image)[0]
    chances = loaded.predict(image).probabilities[0]
    assert [c.label for c in found.top] == np.argsort(-chances).tolist()
    assert [p.score for p in found.parts] == ["energy", "knn"]
    assert -sum(np.log(p.p_value) for p in found.parts) == pytest.approx(found.verdict.ood_score, abs=1e-4)
    own = unit(loaded.runtime.extra(image[None])[EMBEDDING])[0]  # type: ignore[attr-defined]
    cosines = sorted((float(e @ own) for e in loaded.manifest.exemplars.embeddings), reverse=True)
    assert [s.cosine for s in found.nearest] == pytest.approx(cosines[:NEAREST], abs=1e-6)
    assert found.nearest[0].class_name == found.verdict.class_name


def test_a_plain_file_explains_the_classes_only(files: tuple[Path, Path], four: Arrays) -> None:
    found = explain(guard.load(files[0], device="cpu"), four[0][0])
    assert (len(found.top), found.parts, found.nearest) == (4, (), ())


def test_exemplars_stay_when_a_file_is_calibrated_anew(files: tuple[Path, Path], four: Arrays, tmp_path: Path) -> None:
    loaded = guard.load(files[1], device="cpu")
    loaded.calibrate(four[0][:200], alpha=0.1).save(tmp_path / "again.onnx")
    again = guard.load(tmp_path / "again.onnx", device="cpu")
    assert again.manifest.exemplars == loaded.manifest.exemplars
    assert len(explain(again, four[0][0]).nearest) == NEAREST


def test_a_grafted_onnx_classifier_explains_too(four: Arrays, tmp_path: Path) -> None:
    source = fitted("gemm", tmp_path, four, score="energy+knn")
    path = guard.export(source, tmp_path / "guard.onnx", exemplars=1)
    found = explain(guard.load(path, device="cpu"), four[0][0])
    assert [p.score for p in found.parts] == ["energy", "knn"]
    assert -sum(np.log(p.p_value) for p in found.parts) == pytest.approx(found.verdict.ood_score, abs=1e-4)
    assert found.nearest


def test_what_cannot_be_is_refused(source: Guard, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exemplars=1 needs an \.onnx file"):
        guard.export(source, tmp_path / "guard.engine", exemplars=1)
    held, source.calibration_images = source.calibration_images, None
    with pytest.raises(ConfigError, match=r"none are at hand.*data="):
        guard.export(source, tmp_path / "g.onnx", exemplars=1)
    source.calibration_images = held
    with pytest.raises(ConfigError, match="exemplars"):
        guard.export(source, tmp_path / "g.onnx", exemplars=21)


def test_every_class_of_a_large_sorted_set_is_looked_at(
    source: Guard, four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is listed by class, so that its first images are of the first ones."""
    monkeypatch.setattr("export.api.AT_MOST", 40)
    order = np.argsort(four[1], kind="stable")
    path = guard.export(source, tmp_path / "guard.onnx", exemplars=1, data=four[0][order])
    exemplars = guard.load(path, device="cpu").manifest.exemplars
    assert exemplars is not None
    assert {one.label for one in exemplars.images} == {0, 1, 2, 3}
