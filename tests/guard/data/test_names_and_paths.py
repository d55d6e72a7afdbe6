"""A word that is both a name and a path: which is taken is said, and how to get the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.data import load
from guard.manifest import Preprocess
from tests.guard.data.twelve_images import write_folder


@pytest.mark.parametrize("text", ["digits", "digits:0-1"])
def test_the_built_in_data_is_taken_and_the_folder_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    load(text)
    assert caplog.text == ""
    write_folder(tmp_path / text)
    assert len(load(text)) > 300
    assert f"'{text}' is taken as the built-in data set; what has that name here is './{text}'" in caplog.text
    caplog.clear()
    assert len(load(f"./{text}")) == 12
    assert caplog.text == ""


def test_a_folder_is_taken_before_the_hub_which_a_split_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "owner" / "name")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert len(load("owner/name")) == 12
    assert caplog.text == ""
    (tmp_path / "cache" / "datasets--owner--name").mkdir(parents=True)
    assert len(load("owner/name")) == 12
    assert "'owner/name' is taken as the folder; the data set of that name on the hub is 'owner/name:" in caplog.text
    asked: list[str] = []
    monkeypatch.setattr("guard.data.forms.from_hub", lambda text, **_: asked.append(text) or load_folder(tmp_path))
    load("owner/name:train")
    assert asked == ["owner/name:train"]


def test_a_synthesiser_is_taken_and_the_folder_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from train.outliers.sources import outlier_mix

    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "strokes")
    config = Preprocess(height=8, width=8)
    assert outlier_mix("strokes", config) == {"strokes": 1.0}
    assert "'strokes' is taken as the synthesiser; what has that name here is './strokes'" in caplog.text
    mix = outlier_mix("./strokes", config)
    assert mix is not None
    assert [len(images) for images in mix] == [12]


def load_folder(tmp_path: Path) -> object:
    from guard.data.forms.folders import FolderSource

    return FolderSource(tmp_path / "owner" / "name", labelled=True)
