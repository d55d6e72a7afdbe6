"""`init=`: what nobody asked for is as it is in the run that the network starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

import guard
from guard.errors import ArtefactNotFoundError, ConfigError
from tests.conftest import RECIPES, Arrays

Tiny = dict[str, Any]


@pytest.fixture(scope="module")
def started(digits: Callable[[str], Arrays], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that shares nothing with the defaults: other backbone, head, size, geometry."""
    out = tmp_path_factory.mktemp("runs") / "cosine"
    more: Tiny = {"epochs": 1, "batch_size": 32, "device": "cpu", "augment": "none"}
    guard.train(
        digits("0-3"), backbone="wrn10_1", head="cosface", head_options={"margin": 0.1}, image_size=12,
        interpolation="bicubic", out=out, **more,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("method", ["plain", "oe", "phase_mix", "rejection"])
def test_the_network_of_the_run_is_taken_as_it_is(
    method: str, started: Path, four: Arrays, tiny: Tiny, tmp_path: Path
) -> None:
    options = {**tiny, **RECIPES[method], "epochs": 1}
    del options["backbone"]
    read = {name: value for name, value in options.items() if name != "epochs" or method != "rejection"}
    m = guard.train(four, init=started, out=tmp_path / "run", **read).manifest
    there = guard.load(started, device="cpu").manifest
    for name in ("backbone", "head", "head_options", "preprocess", "normalisation"):
        assert getattr(m, name) == getattr(there, name), name
    assert m.head_options["margin"] == 0.1
    assert m.score == guard.train(four, head="cosface", **{**options, "backbone": "wrn10_1"}).manifest.score


def test_what_is_asked_for_goes_before(started: Path, four: Arrays, tiny: Tiny) -> None:
    del (options := {**tiny, "epochs": 1})["backbone"]
    g = guard.train(four, init=started, head_options={"margin": 0.2}, image_size=16, **options)
    assert (g.manifest.preprocess.height, g.manifest.preprocess.interpolation) == (16, "bilinear")
    assert (g.manifest.backbone, g.manifest.head_options["margin"]) == ("wrn10_1", 0.2)


def test_an_extra_class_is_added_to_a_linear_head(
    trained: Callable[[str], Any], four: Arrays, tiny: Tiny, tmp_path: Path
) -> None:
    plain = trained("plain")
    plain.save_pretrained(tmp_path / "plain")
    options = {**tiny, **RECIPES["fodfom"]}
    del options["backbone"], options["epochs"]
    g = guard.train(four, init=tmp_path / "plain", **options)
    assert (g.manifest.backbone, g.manifest.head) == (plain.manifest.backbone, "c_plus_1")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"backbone": "wrn10_2"},
            "has backbone='wrn10_1', and this training backbone='wrn10_2'; give backbone='wrn10_1'",
        ),
        ({"head": "linear"}, "has head='cosface', and this training head='linear'"),
        ({"in_chans": 1}, "has in_chans=3, and this training in_chans=1; give in_chans=3"),
        ({"method": "npos"}, "and this training head='hypersphere'"),
        ({"score": "cosine"}, "and this training head='cosine'"),
    ],
)
def test_what_does_not_fit_is_said_before_an_image_is_decoded(
    asked: Tiny, message: str, started: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        guard.train(tmp_path / "no images", init=started, device="cpu", **asked)


def named(arrays: Arrays, names: list[str], path: Path) -> Path:
    """Parquet with the names of the labels, in their order."""
    images, labels = arrays
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_classes_are_matched_by_name(trained: Callable[[str], Any], four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """A rejection network leaves the classifier as it is: its classes in another order would all be wrong."""
    plain = trained("plain")
    run = plain.save_pretrained(tmp_path / "plain")
    del (options := {**tiny, **RECIPES["rejection"], "init": run})["epochs"]
    backwards = named((four[0], 3 - four[1]), ["3", "2", "1", "0"], tmp_path / "backwards.parquet")
    g = guard.train(backwards, **options)
    assert g.manifest.class_names == plain.manifest.class_names
    assert g.manifest.metrics["test_accuracy"] > 0.9
    birds = named(four, ["crow", "owl", "robin", "wren"], tmp_path / "birds.parquet")  # the run had numbers alone
    assert guard.train(birds, **options).manifest.class_names == ("crow", "owl", "robin", "wren")
    guard.train(birds, out=tmp_path / "birds", **{**tiny, "epochs": 1})
    assert guard.train(four, **{**options, "init": tmp_path / "birds"}).manifest.class_names[0] == "crow"
    other = named(four, ["crow", "owl", "robin", "tit"], tmp_path / "other.parquet")
    with pytest.raises(
        ConfigError, match=r"knows 4 classes \(crow, owl, robin, wren\), and the data has 4 \(crow.*tit"
    ):
        guard.train(other, **{**options, "init": tmp_path / "birds"})
    few = four[1] < 3
    with pytest.raises(ConfigError, match=r"knows 4 classes .*and the data has 3"):
        guard.train((four[0][few], four[1][few]), **options)


def test_a_file_is_not_a_run(started: Path, tmp_path: Path) -> None:
    (tmp_path / "guard.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"guard\.onnx' is a file; give the run folder that it was exported from"):
        guard.train(tmp_path / "no images", init=tmp_path / "guard.onnx", device="cpu")


def test_a_run_that_is_not_there_is_said_before_an_image_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(ArtefactNotFoundError, match="runs"):
        guard.train(tmp_path / "no images", init=tmp_path / "runs", device="cpu")


def test_a_network_that_is_not_built_by_name_is_said(four: Arrays, tmp_path: Path) -> None:
    class Net(torch.nn.Sequential):
        pass

    net = Net(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    guard.fit(net, four, score="energy", out=tmp_path / "fitted", device="cpu", image_size=16)
    with pytest.raises(ConfigError, match=r"init=.*fitted.* is a network that is not made by its name"):
        guard.train(four, init=tmp_path / "fitted", device="cpu")
