"""Files of one split are read together, those of several never: the split is what their names share."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.data import load
from guard.data.forms.shards import shards_in, split_name
from guard.errors import DataError
from tests.guard.data.twelve_images import IMAGES, png, write_folder, write_parquet

HASH = "38cc4fa96c139e86"


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize(
    "files",
    [
        ["train.parquet"],
        ["data.pq"],
        [f"train-0000{i}-of-00002-{h}.parquet" for i, h in enumerate((HASH, "48cc4fa96c139e86"))],
        [f"data/train-0000{i}-of-00002.parquet" for i in range(2)],
        ["plain_text/train-00000-of-00001.parquet"],
        [f"default/train/000{i}.parquet" for i in range(3)],
        ["part-0.parquet", "part-1.parquet"],
        ["batch_1.parquet", "batch_2.PARQUET"],
        [f"part-0000{i}-2a8b6f1e-57c4-4c1c-9d0f-{i:012d}-c000.snappy.parquet" for i in range(2)],
        ["0.parquet", "1.parquet"],
        ["train_0.parquet", "train_1.parquet"],
    ],
    ids=lambda files: files[0][:40],
)
def test_shards_of_one_split_are_read_together(files: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *files, ".hidden/x.parquet", "README.md")
    assert [str(file.relative_to(tmp_path)) for file in shards_in(tmp_path, (".parquet", ".pq"))] == sorted(files)


@pytest.mark.parametrize(
    ("files", "splits", "advice"),
    [
        ([f"{split}-00000-of-00001-{HASH}.parquet" for split in ("train", "test")], "test, train",
         f"train-00000-of-00001-{HASH}.parquet"),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], "test, train", "data/train-"),
        (["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"], "test, train",
         "plain_text/train-"),
        (["default/train/0000.parquet", "default/test/0000.parquet"], "test, train", "default/train"),
        (["cifar10-train.parquet", "cifar10-test.parquet"], "test, train", "cifar10-train.parquet"),
        (["train.parquet", "unlabelled.parquet"], "train, unlabelled", "train.parquet"),
        (["fold1-00000-of-00001.parquet", "fold2-00000-of-00001.parquet"], "fold1, fold2", "fold1-"),
        (["fold_1.parquet", "fold_2.parquet"], "fold_1, fold_2", "fold_1.parquet"),
        (["a.parquet", "b.parquet"], "a, b", "a.parquet, or all of them as "),
        ([f"{s}-0000{i}-of-00002-{i}8cc4fa96c139e86.parquet" for s in ("train", "validation") for i in range(2)],
         "train, validation", "train-*.parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0][:40],
)  # fmt: skip
def test_several_splits_are_refused_with_the_way_to_one(
    files: list[str], splits: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"several splits \({splits}\); give one, e\.g\. ") as caught:
        shards_in(touch(tmp_path, *files), (".parquet",))
    way = str(caught.value).split("e.g. ")[1].split(", or all")[0]
    found = [*tmp_path.glob(str(Path(way).relative_to(tmp_path)))]
    assert found
    assert str(caught.value).split("e.g. ")[1].startswith(f"{tmp_path}/{advice}")
    assert len({split_name(file.stem) for file in found}) == 1


def test_several_configurations_are_refused_and_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{s}-00000-of-00001.parquet" for c in ("small", "large") for s in ("train", "test")))
    with pytest.raises(DataError, match=rf"the configurations large, small; give one, e\.g\. {tmp_path}/large$"):
        shards_in(tmp_path, (".parquet",))


def test_a_clone_is_read_by_its_split(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    for i, split in enumerate(("train", "test")):
        write_parquet(root / "plain_text" / f"{split}-00000-of-00001-{i}{HASH[1:]}.parquet")
    with pytest.raises(DataError, match=r"several splits \(test, train\)") as caught:
        load(root)
    way = str(caught.value).split("e.g. ")[1]
    assert len(load(way)) == 12
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        load(f"{root}/plain_text/*.parquet")


def test_all_files_of_other_names_can_be_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", slice(0, 6))
    write_parquet(tmp_path / "b.parquet", slice(6, None))
    with pytest.raises(DataError, match=r"several splits \(a, b\).* or all of them as ") as caught:
        load(tmp_path)
    assert len(load(str(caught.value).split("all of them as ")[1])) == 12


def test_a_table_among_folders_of_images_leaves_them_images(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(IMAGES[0 if name == "ant" else 1]))
    touch(tmp_path, "meta/table.parquet")
    with pytest.raises(DataError, match=r"class folder .*meta holds no images"):
        load(tmp_path)


@pytest.mark.parametrize("stray", ["stray.tar", "stray.parquet"])
def test_a_table_beside_folders_of_images_leaves_them_images(
    stray: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / "insects")
    write_parquet(tmp_path / "insects/stray.parquet", slice(3)).rename(tmp_path / "insects" / stray)
    for labelled in (True, False):
        caplog.clear()
        assert len(load(tmp_path / "insects", labelled=labelled)) == 12
        assert f"1 {Path(stray).suffix}" in caplog.text


def test_a_table_beside_loose_images_is_not_chosen_for_their_owner(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet")
    (tmp_path / "preview.png").write_bytes(png(IMAGES[0]))
    with pytest.raises(
        DataError, match=r"holds images \(preview.png\) beside train.parquet; give the one \(.*train.parq"
    ):
        load(tmp_path)
    assert len(load(tmp_path / "train.parquet")) == 12
