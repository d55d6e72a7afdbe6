"""Outlier stores: whole or not at all, the same bytes however often a run was killed, in one process or several."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import guard
from guard.data import load
from guard.errors import ArtefactDamagedError
from tests.train.outliers.store.stores import CPU, Counting, content, images, small
from train.engine.distributed import Processes
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.images import PatchShuffle, PixelAverage
from train.outliers.store.fill import shard_seed
from train.outliers.store.store import missing_shards, open_store
from train.runs.synth import untrained

# -------------------------------------------------------------------------------------------------------- what is made


def test_a_store_holds_what_was_asked_for_in_shards(tmp_path: Path, context: PrepareContext) -> None:
    store = small(tmp_path / "s", context)
    assert [pq.read_metadata(p).num_rows for p in store.paths()] == [20, 20, 10]
    assert len(store) == len(store.images()) == 50
    assert store.card.options == {"grid": 2}
    assert store.card.data.images == 60
    assert json.loads((tmp_path / "s" / "card.json").read_text())["synthesiser"] == "patch_shuffle"
    assert open_store(tmp_path / "s") == store


def test_every_row_names_its_parent(tmp_path: Path, context: PrepareContext) -> None:
    table = pq.read_table(small(tmp_path / "s", context).paths()[0]).to_pylist()
    assert context.data.array is not None
    assert context.data.labels is not None
    # shuffling patches keeps the pixels, so their sorted values say which image it was
    by_pixels = {
        np.sort(x, axis=None).tobytes(): y for x, y in zip(context.data.array, context.data.labels, strict=True)
    }
    for row in table:
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert row["parents"] == [by_pixels[np.sort(pixels, axis=None).tobytes()]]
        assert row["origin"] == "patches shuffled on a 2 x 2 grid"


def test_classes_are_mixed_and_every_image_is_used(tmp_path: Path, context: PrepareContext) -> None:
    store = small(tmp_path / "s", context, 400, shard_size=400)
    parents = [p for row in pq.read_table(store.paths()[0]).column("parents").to_pylist() for p in row]
    assert np.bincount(parents).min() > 90  # of 133 each
    assert set(parents[:20]) == {0, 1, 2}


def test_our_loader_and_datasets_read_it(tmp_path: Path, context: PrepareContext) -> None:
    datasets = pytest.importorskip("datasets")
    store = small(tmp_path / "s", context)
    ours = load(str(tmp_path / "s"), labelled=False)
    assert ours.array is not None
    with pytest.raises(guard.errors.DataError, match=r"is an outlier store.*give it as outliers="):
        load(str(tmp_path / "s"))
    files = [str(p) for p in store.paths()]
    theirs = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(theirs) == 50
    np.testing.assert_array_equal(np.asarray(theirs[33]["image"]), ours.array[33])
    assert theirs[33]["parents"] == pq.read_table(files[1]).column("parents")[13].as_py()


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_stay_grey(tmp_path: Path, channels: int) -> None:
    data = images(channels=channels)
    store = small(tmp_path / "s", PrepareContext(untrained(data, CPU), data, tmp_path, 0, CPU))
    assert store.images().preprocess.channels == channels
    row = pq.read_table(store.paths()[0]).column("image")[0].as_py()
    assert Image.open(io.BytesIO(row["bytes"])).mode == ("L" if channels == 1 else "RGB")


def test_two_classes_suffice_for_averages_of_many(tmp_path: Path) -> None:
    data = images(classes=2)
    context = PrepareContext(untrained(data, CPU), data, tmp_path, 0, CPU)
    store = small(tmp_path / "s", context, synthesiser=PixelAverage(16, 2, k=10))
    parents = pq.read_table(store.paths()[0]).column("parents").to_pylist()
    assert all(sorted(p) == [0, 1] for p in parents)


def test_images_that_are_not_in_memory(
    tmp_path: Path, context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.data.array is not None
    assert context.data.labels is not None
    in_memory = small(tmp_path / "a", context)
    for name in range(3):
        (tmp_path / "images" / str(name)).mkdir(parents=True)
    for i, (pixels, label) in enumerate(zip(context.data.array, context.data.labels, strict=True)):
        Image.fromarray(pixels).save(tmp_path / "images" / str(label) / f"{i:03d}.png")
    monkeypatch.setattr("guard.data.loading.fits_in_array", lambda *_: False)
    streamed = load(tmp_path / "images", workers=0)
    assert streamed.array is None
    streamed = streamed.subset(np.argsort(np.argsort(context.data.labels, kind="stable"), kind="stable"))
    store = small(tmp_path / "b", replace(context, data=streamed))
    assert content(store.folder) == content(in_memory.folder)


def test_what_is_in_distribution_after_all_is_left_out(tmp_path: Path, context: PrepareContext) -> None:
    class Half(PatchShuffle):
        """White outliers and black images that are in-distribution."""

        def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
            labels = torch.arange(16) % 2 - 1
            made = super().sample(batch, generator)
            return made._replace(
                data=torch.where(labels < 0, 255, 0).byte().view(-1, 1, 1, 1).expand(-1, 8, 8, 3), labels=labels
            )

    store = small(tmp_path / "s", context, synthesiser=Half(16, 3, grid=2))
    pixels = store.images().array
    assert pixels is not None
    assert len(pixels) == 50
    assert (pixels == 255).all()


# ------------------------------------------------------------------------------------------------------ the same bytes


def test_the_seed_decides_and_nothing_else(tmp_path: Path, context: PrepareContext) -> None:
    first, second = small(tmp_path / "a", context), small(tmp_path / "b", context)
    other = small(tmp_path / "c", replace(context, seed=6))
    assert content(first.folder) == content(second.folder)
    assert not set(content(first.folder).values()) & set(content(other.folder).values())
    assert len({shard_seed(s, i) for s in range(50) for i in range(50)}) == 2500


def test_a_missing_or_a_damaged_shard_is_made_again_and_no_other(tmp_path: Path, context: PrepareContext) -> None:
    store = small(tmp_path / "s", context)
    before = content(store.folder)
    times = {p.name: p.stat().st_mtime_ns for p in store.paths()}
    store.paths()[0].unlink()
    store.paths()[2].write_bytes(before["shard-00002.parquet"][:-40])  # cut short
    assert missing_shards(store.folder, store.card) == [0, 2]
    with pytest.raises(ArtefactDamagedError, match=r"lacks 2 of its 3 shards.*shard-00000\.parquet"):
        store.images()
    small(tmp_path / "s", context)
    assert content(store.folder) == before
    assert store.paths()[1].stat().st_mtime_ns == times["shard-00001.parquet"]


@pytest.mark.parametrize("tolerated", [0.01, 0.5])
def test_a_changed_pixel_is_not_read(
    tmp_path: Path, context: PrepareContext, tolerated: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where so few corrupt images would be skipped elsewhere: a pool must not lose rows."""
    monkeypatch.setattr("guard.data.loading.CORRUPT_SHARE", tolerated)
    store = small(tmp_path / "s", context)
    path = store.paths()[1]
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactDamagedError if tolerated == 0.5 else guard.errors.DataError, match="shard-00001"):
        store.images()


@pytest.mark.parametrize("count", [45, 60, 70])
def test_a_store_grows_to_what_it_would_have_been(tmp_path: Path, context: PrepareContext, count: int) -> None:
    small(tmp_path / "grown", context, 30)
    grown, at_once = small(tmp_path / "grown", context, count), small(tmp_path / "once", context, count)
    assert content(grown.folder) == content(at_once.folder)
    assert open_store(grown.folder).card.count == count


def test_a_whole_store_is_opened_without_work(tmp_path: Path, context: PrepareContext) -> None:
    synthesiser = Counting(16, 3, grid=2)
    small(tmp_path / "s", context, synthesiser=synthesiser)
    asked = synthesiser.asked
    assert asked == 5  # of 16 for 20, 20 and 10
    small(tmp_path / "s", context, synthesiser=synthesiser)
    assert synthesiser.asked == asked


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from guard.data import load
from train.outliers.base import PrepareContext
from train.runs.synth import untrained
from train.outliers.images import PatchShuffle
from train.outliers.store.fill import fill

pixels = np.random.default_rng(7).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
data = load((pixels, np.arange(60) % 3), channels=3)
replace, written = os.replace, []
def kill_at_the_second_shard(source, target):
    written.append(target)
    if sum(str(t).endswith(".parquet") for t in written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)  # the new shard is written, but not yet in its place
    replace(source, target)
os.replace = kill_at_the_second_shard
context = PrepareContext(untrained(data, torch.device("cpu")), data, Path(sys.argv[1]), 5, torch.device("cpu"))
fill(Path(sys.argv[1]), PatchShuffle(16, 3, grid=2), context, 50, batch_size=16, shard_size=20)
"""


def test_killed_and_continued_it_ends_with_the_same_bytes(tmp_path: Path, context: PrepareContext) -> None:
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=Path(guard.__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    assert list(content(folder)) == ["shard-00000.parquet"]
    assert list(folder.glob(".shard-00001*")), "the kill came while a shard was being written"
    small(folder, context)
    assert content(folder) == content(small(tmp_path / "once", context).folder)


# --------------------------------------------------------------------------------------------------- several processes


def test_processes_make_their_shards_and_together_those_of_one(
    tmp_path: Path, context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small(tmp_path / "alone", context, 130)
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    found = []
    for rank in range(3):  # one after the other: 7 shards over 3 processes
        monkeypatch.setattr("train.outliers.store.fill.processes", lambda rank=rank: Processes(rank, 3))
        synthesiser = Counting(16, 3, grid=2)
        small(tmp_path / "shared", context, 130, synthesiser=synthesiser)
        found.append(set(content(tmp_path / "shared")))
        assert synthesiser.asked == (5, 4, 4)[rank]  # two draws per shard, one for the last
    numbers = [sorted(int(name[6:11]) for name in names) for names in found]
    assert numbers == [[0, 3, 6], [0, 1, 3, 4, 6], list(range(7))]
    assert content(tmp_path / "shared") == content(alone.folder)
    assert open_store(tmp_path / "shared").card == alone.card


def test_a_process_whose_share_is_there_makes_nothing(
    tmp_path: Path, context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small(tmp_path / "s", context, 130)
    store.paths()[4].unlink()
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    for rank, expected in ((0, 0), (2, 0), (1, 2)):
        monkeypatch.setattr("train.outliers.store.fill.processes", lambda rank=rank: Processes(rank, 3))
        synthesiser = Counting(16, 3, grid=2)
        small(tmp_path / "s", context, 130, synthesiser=synthesiser)
        assert synthesiser.asked == expected
