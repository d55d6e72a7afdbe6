"""Splits are never taken for classes, whatever they are called, and sub-folders never merged without a word."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from guard.data import load
from guard.data.forms.nesting import SplitsError, is_split
from guard.errors import DataError
from tests.guard.data.twelve_images import IMAGES, png


def write(root: Path, *folders: str) -> Path:
    """Two images in each folder."""
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for j in range(2):
            (root / folder / f"{i}{j}.png").write_bytes(png(IMAGES[i % 12] ^ (100 * j + i)))
    return root


def below(parents: str, children: str) -> list[str]:
    return [f"{parent}/{child}" for parent in parents.split() for child in children.split()]


@pytest.mark.parametrize(
    ("folders", "advice"),
    [
        (below("training_set test_set", "cat dog"), "training_set"),
        (below("Training Validation", "cat dog"), "Training"),
        (below("fold1 fold2 fold3", "cat dog"), "fold1"),
        (below("a b", "cat dog"), "a"),
        (below("2019 2020", "cat dog cow"), "2019"),
        ([*below("a", "cat dog cow"), *below("b", "cat dog")], "a"),
        ([*below("a", "cat dog cow elk"), *below("b", "cat dog emu")], "a"),
        ([*below("a", "cat dog cow elk"), *below("b", "Cat DOG")], "a"),
        ([*below("x", "1 2"), *below("a b", "cat dog")], "a"),
        (below("species1 species2 species3", "male female"), "species1"),
        (["train", "test"], "train"),
        (["imgs_train", "imgs_test", "masks"], "imgs_train"),
        ([*below("train", "cat dog"), "test"], "train"),
        ([*below("seg_train/seg_train seg_test/seg_test", "cat dog"), "seg_pred/seg_pred"], "seg_train/seg_train"),
        (below("train/images val/images", "cat dog"), "train/images"),
        (below("dataset", "cat dog"), "dataset"),
        (below("dataset/train dataset/test", "cat dog"), "dataset/train"),
        ([*below("train", "cat dog"), "extra"], "train"),
        ([*below("backup", "cat dog"), "cat", "dog"], "backup"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value)[:40],
)
def test_what_may_be_splits_is_refused_with_the_way_to_one(folders: list[str], advice: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", *folders)
    (root / "README.md").write_text("text")
    (root / "stray.png").write_bytes(png(IMAGES[0]))
    with pytest.raises(
        SplitsError, match=rf"give (one of them, e\.g\. |one, e\.g\. |){root}/{advice}([;.,]|$)"
    ) as caught:
        load(root)
    assert len(str(caught.value)) < 300 + 3 * len(str(root))


def test_classes_with_sub_folders_of_the_same_names_are_offered_both_ways(tmp_path: Path) -> None:
    root = write(tmp_path / "set", *below("ara crow", "male female"))
    with pytest.raises(SplitsError, match=r"may be splits, .* where they are classes, move the images out"):
        load(root)


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["cat", "dog"], ("cat", "dog")),
        (["train", "bus", "car"], ("bus", "car", "train")),
        (["train_station", "test_tube"], ("test_tube", "train_station")),
        (["train station/images", "airport/images"], ("airport", "train station")),
        (["n01/images", "n02/images", "n03/images"], ("n01", "n02", "n03")),
    ],
)
def test_classes_stay_classes(
    folders: list[str], classes: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load(write(tmp_path, *folders))
    assert data.class_names == classes
    assert caplog.text == ""


@pytest.mark.parametrize(
    "folders",
    [
        [*below("animals", "cat dog"), *below("vehicles", "car bus")],
        ["cat", *below("dog", "puppy adult")],
        ["cat", "cat/augmented", "dog", "dog/augmented"],
    ],
)
def test_sub_folders_that_are_taken_into_their_class_are_said(
    folders: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ood_guard"):
        data = load(write(tmp_path, *folders))
    assert len(data.class_names) == 2
    assert "take the images of their sub-folders too (e.g. " in caplog.text


@pytest.mark.parametrize("name", ["train", "Training", "TestSet", "test_images", "val2017", "fold-3", "dev.set"])
def test_names_of_splits(name: str) -> None:
    assert is_split(name)


@pytest.mark.parametrize("name", ["trainers", "steam train", "test tube", "contest", "seedling", "2017", ""])
def test_names_that_are_no_splits(name: str) -> None:
    assert not is_split(name)


def test_many_classes_are_compared_quickly(tmp_path: Path) -> None:
    from guard.data.forms.nesting import Nesting, check_nesting

    folders = {f"c{i}": Nesting("", (f"s{i}", "other", f"t{i}"), False) for i in range(20_000)}
    assert "20000 classes" in check_nesting(tmp_path, folders)


def test_one_split_is_read(tmp_path: Path) -> None:
    root = write(tmp_path, *below("train test", "cat dog"))
    assert load(root / "train").class_names == ("cat", "dog")
    with pytest.raises(DataError, match="2 images but no sub-folders"):
        load(root / "train" / "cat")


def test_a_threshold_is_never_chosen_on_several_splits(tmp_path: Path) -> None:
    """Without labels every image of a folder would do; but several splits hold training images."""
    from guard.data.held_out import Draw, Splits
    from guard.data.test_images import calibration_images
    from tests.guard.data.test_held_out import made_from

    root = write(tmp_path, *below("train test", "cat dog"))
    manifest = made_from(Splits.draw(load(root / "train"), Draw(0, 1, 0), alpha=0.5), seed=0)
    with pytest.raises(SplitsError, match="looks like splits"):
        calibration_images(manifest, root, labelled=False)
