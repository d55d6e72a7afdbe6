"""A timm name that is also a folder here: the name is taken, and the folder is given by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm

import guard
from guard.errors import DataError, ModelError
from tests.conftest import Arrays


def test_the_name_is_taken_and_the_folder_named(
    trained: Any, four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    trained("plain").save_pretrained("resnet10t")

    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("train.classifiers.torch_models.timm_model", offline)
    with pytest.raises(ModelError, match="published weights of 'resnet10t' cannot be loaded"):
        guard.fit("resnet10t", four, device="cpu")
    assert "'resnet10t' is taken as timm's model; what has that name here is './resnet10t'" in caplog.text
    caplog.clear()
    assert guard.fit("./resnet10t", four, device="cpu").manifest.backbone == "wrn10_2"
    assert guard.fit(Path("resnet10t"), four, device="cpu").manifest.backbone == "wrn10_2"
    assert "is taken as" not in caplog.text


def test_a_published_classifier_keeps_its_own_classes(four: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm gives a network of another number of classes a new last layer, of random weights."""
    asked: list[Any] = []

    def made(name: str, classes: int, *_: Any, **__: Any) -> Any:
        asked.append((name, classes))
        return timm.create_model(name, num_classes=classes)

    monkeypatch.setattr("train.classifiers.torch_models.timm_model", made)
    with pytest.raises((DataError, ModelError), match="the model answers 1000 classes, the data has 4"):
        guard.fit("resnet10t", four, device="cpu", image_size=32)
    assert set(asked) == {("resnet10t", 1000)}
    with pytest.raises(ModelError, match=r"publishes no classifier under the name .*, only features"):
        guard.fit("vit_base_patch14_dinov2", four, device="cpu")
