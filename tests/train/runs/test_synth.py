"""`guard.synth`: what it makes outliers from, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

import guard
from guard.data import load
from guard.errors import ConfigError
from tests.conftest import Arrays
from tests.train.outliers.store.stores import Counting
from train.outliers.base import ImageSynthesiser
from train.outliers.store.card import source_card


class Looking(Counting):
    """Uses the classifier."""

    name: ClassVar[str] = "looking"

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True


def test_guard_synth_leaves_held_out_images_alone(tmp_path: Path, four: Arrays, tiny: dict[str, Any]) -> None:
    """The store is made from the very images that guard.train trains on, also as a classifier's own splits say."""
    g = guard.train(four, **{**tiny, "backbone": "wrn10_2", "epochs": 1, "seed": 3}, calibration=50, test=60)
    options: dict[str, Any] = {"method": "patch_shuffle", "count": 20, "device": "cpu", "gallery": False}
    data = load(four)
    wanted = source_card(data.subset(g.splits["train"]))
    same = guard.synth(four, out=tmp_path / "a", seed=3, calibration=50, test=60, **options)
    looked_at = guard.synth(four, out=tmp_path / "b", classifier=g, **options)
    assert same.card.data == looked_at.card.data == wanted
    assert wanted.images == len(data) - 110
    other = guard.synth(four, out=tmp_path / "c", seed=4, **options)
    assert other.card.data.rows != wanted.rows


def test_a_synthesiser_that_needs_a_classifier_says_so(
    tmp_path: Path, four: Arrays, monkeypatch: pytest.MonkeyPatch, exported: Callable[[str], Path]
) -> None:
    kinds: dict[str, type[ImageSynthesiser]] = {"looking": Looking}
    monkeypatch.setattr("train.runs.synth.get_synthesiser", kinds.__getitem__)
    with pytest.raises(ConfigError, match="give classifier= a run folder"):
        guard.synth(four, method="looking", out=tmp_path / "s")
    with pytest.raises(ConfigError, match="give the run folder it was exported from"):
        guard.synth(four, method="looking", out=tmp_path / "s", classifier=exported("plain"), device="cpu")


def test_out_must_be_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        guard.synth("digits", method="patch_shuffle", out=tmp_path / "file")
    with pytest.raises(ConfigError, match="is the folder of the images"):
        guard.synth(str(tmp_path), method="patch_shuffle", out=tmp_path)


@pytest.mark.parametrize("home", [False, True])
def test_nothing_is_written_among_the_classes(home: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store nor a model, in which pictures would be one more class; also where ~ stands for the folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = "~/d" if home else str(tmp_path / "d")
    for label in ("ants", "bees"):
        (tmp_path / "d" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "d" / label / "1.png")
    with pytest.raises(ConfigError, match=r"out=.* lies in the folder of the images"):
        guard.synth(folder, method="patch_shuffle", out=f"{folder}/stores")
    for inside, sentence in ((folder, "is the folder of the images"), (f"{folder}/m", "lies in the folder")):
        with pytest.raises(ConfigError, match=f"pair.folder=.* {sentence}"):
            guard.synth(folder, method="dmr", out=tmp_path / "s", pair={"folder": inside})
        with pytest.raises(ConfigError, match=f"pair.folder=.* {sentence}"):
            guard.train(folder, method="dmr", out=tmp_path / "s", pair={"folder": inside})
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["ants", "bees"]
    assert not (tmp_path / "s").exists()


def test_a_page_that_is_no_gallery_of_ours_is_not_replaced(four: Arrays, tmp_path: Path) -> None:
    (tmp_path / "gallery.html").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds gallery\.html and no card\.json"):
        guard.synth(four, method="patch_shuffle", count=20, out=tmp_path, device="cpu")
    assert (tmp_path / "gallery.html").read_text() == "mine"
    guard.synth(four, method="patch_shuffle", count=20, out=tmp_path, device="cpu", gallery=False)
