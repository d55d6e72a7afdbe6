"""Outlier stores: whole or not at all, the same bytes however often a run was killed, never mixed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import guard
from guard.data import ImageData, load
from guard.errors import ArtefactDamagedError, ArtefactNotFoundError, ArtefactVersionError, ConfigError
from tests.conftest import Arrays
from train.engine.distributed import Processes
from train.generators.diffusion import DiffusionOptions
from train.generators.diffusion import base as diffusion_base
from train.generators.latent_pair import PairOptions
from train.outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext
from train.outliers.images import PatchShuffle, PixelAverage
from train.outliers.images.label_mixup import LabelMixup
from train.outliers.images.latent_arithmetic import MLM
from train.outliers.images.ncis import NCISOptions
from train.outliers.store import store as store_module
from train.outliers.store.card import source_card
from train.outliers.store.shards import Rows
from train.outliers.store.store import Store, Stored, fill, missing_shards, open_store, shard_seed
from train.runs.synth import untrained

CPU = torch.device("cpu")


def images(classes: int = 3, channels: int = 3, count: int = 60, side: int = 8) -> ImageData:
    pixels = np.random.default_rng(7).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return load((pixels, np.arange(count) % classes), channels=channels)


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    data = images()
    return PrepareContext(untrained(data, CPU), data, tmp_path / "run", 5, CPU)


def shuffler(grid: int = 2, per_draw: int = 16) -> PatchShuffle:
    return PatchShuffle(per_draw, 3, grid=grid)


def small(folder: Path, context: PrepareContext, count: int = 50, **options: Any) -> Store:
    """A store of shards of 20."""
    made = options.pop("synthesiser", None) or shuffler()
    return fill(folder, made, context, count, **{"batch_size": 16, "shard_size": 20, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


class Counting(PatchShuffle):
    """Counts what it is asked for."""

    asked = 0

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        self.asked += 1
        return super().sample(batch, generator)


# ----------------------------------------------------------------------------------------------------- what is made


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
    with pytest.raises(guard.errors.DataError, match="no label column"):
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
from train.outliers.store.store import fill

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


# ----------------------------------------------------------------------------------------------------------- refusals


Change = Callable[[Path, PrepareContext], Store]
CHANGES: dict[str, Change] = {
    r"options\.grid: 2 then, 4 now": lambda f, s: small(f, s, synthesiser=shuffler(grid=4)),
    r"synthesiser: 'patch_shuffle' then, 'pixel_average' now": lambda f, s: small(
        f, s, synthesiser=PixelAverage(16, 3)
    ),
    r"seed: 5 then, 6 now": lambda f, s: small(f, replace(s, seed=6)),
    r"match: \[\] then, \['contrast'\] now": lambda f, s: small(f, s, match=("contrast",)),
    r"batch_size: 16 then, 20 now": lambda f, s: small(f, s, batch_size=20),
    r"per_draw: 16 then, 8 now": lambda f, s: small(f, s, synthesiser=shuffler(per_draw=8)),
    r"data\.rows: .*data\.images: 60 then, 59 now|data\.images: 60 then, 59 now; data\.rows": lambda f, s: small(
        f, replace(s, data=s.data.subset(np.arange(59)))
    ),
    r"data\.fingerprint": lambda f, s: small(f, replace(s, data=images(classes=2))),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_store_made_otherwise_is_refused(tmp_path: Path, context: PrepareContext, message: str) -> None:
    small(tmp_path / "s", context)
    before = content(tmp_path / "s")
    with pytest.raises(ConfigError, match=message):
        CHANGES[message](tmp_path / "s", context)
    assert content(tmp_path / "s") == before


def test_a_run_that_was_stopped_before_its_first_shard_binds_nobody(tmp_path: Path, context: PrepareContext) -> None:
    for path in small(tmp_path / "s", context).paths():
        path.unlink()
    assert small(tmp_path / "s", context, synthesiser=shuffler(grid=4)).card.options == {"grid": 4}


def test_fewer_images_than_there_are_and_folders_of_something_else(tmp_path: Path, context: PrepareContext) -> None:
    small(tmp_path / "s", context)
    with pytest.raises(ConfigError, match="holds 50 outliers and 40 are asked for"):
        small(tmp_path / "s", context, 40)
    (tmp_path / "s" / "card.json").unlink()
    with pytest.raises(ConfigError, match="holds Parquet files and no store"):
        small(tmp_path / "s", context)
    with pytest.raises(ArtefactNotFoundError, match="is no outlier store"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ArtefactDamagedError, "is not the card of an outlier store"),
        ('{"format_version": 9}', ArtefactVersionError, "version 9; this ood-guard reads version 1"),
        ('{"format_version": 1, "seed": 0}', ArtefactDamagedError, r"damaged \(synthesiser: Field required"),
    ],
)
def test_cards_that_are_none(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(error, match=message):
        open_store(tmp_path)


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_counts_that_are_none(tmp_path: Path, context: PrepareContext, count: Any) -> None:
    with pytest.raises(ConfigError, match="count must be a number of images"):
        small(tmp_path / "s", context, count)


# ------------------------------------------------------------------------------------------- whose model made them


FORM: dict[str, Any] = {"diffusion_width": 8, "diffusion_batch": 16, "sampling_steps": 2, "guidance": 1}


def mixup(diffusion_folder: Path | str | None, per_draw: int = 16, epochs: int = 1, **options: Any) -> LabelMixup:
    folder = None if diffusion_folder is None else str(diffusion_folder)
    return LabelMixup(per_draw, 3, diffusion_folder=folder, diffusion_epochs=epochs, **{**FORM, **options})


@pytest.fixture
def shared(tmp_path: Path, context: PrepareContext) -> Path:
    """A folder with a finished diffusion model."""
    mixup(tmp_path / "shared").prepare(context)
    return tmp_path / "shared"


@pytest.fixture
def decoded(tmp_path: Path, context: PrepareContext, shared: Path) -> Path:
    """A store of 30 images that it made."""
    return small(tmp_path / "s", context, 30, synthesiser=mixup(shared)).folder


def held(folder: Path) -> dict[str, bytes]:
    return {**content(folder), "card.json": (folder / "card.json").read_bytes()}


def test_a_store_is_not_grown_by_another_model(context: PrepareContext, shared: Path, decoded: Path) -> None:
    before, which = held(decoded), open_store(decoded).card.model
    assert which == hashlib.sha256((shared / "diffusion.safetensors").read_bytes()).hexdigest()[:16]
    shutil.rmtree(shared)
    with pytest.raises(ConfigError, match=rf"made otherwise \(model: '{which}' then, '\w{{16}}' now\)"):
        small(decoded, context, 50, synthesiser=mixup(shared, epochs=2))  # trained for it
    assert (shared / "diffusion.safetensors").exists()
    for count in (30, 50):  # found there
        with pytest.raises(ConfigError, match=rf"made otherwise \(model: '{which}' then, '\w{{16}}' now\)"):
            small(decoded, context, count, synthesiser=mixup(shared))
    assert held(decoded) == before


def test_a_whole_store_needs_its_model_no_more(
    context: PrepareContext, shared: Path, decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(decoded)
    monkeypatch.setattr(LabelMixup, "prepare", lambda *_: pytest.fail("prepared"))
    small(decoded, context, 30, synthesiser=mixup(shared))
    shutil.rmtree(shared)
    small(decoded, context, 30, synthesiser=mixup(shared))
    assert not shared.exists()
    assert held(decoded) == before


def test_a_model_that_is_trained_again_alike_goes_on(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path
) -> None:
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    shutil.rmtree(shared)
    assert held(small(decoded, context, 50, synthesiser=mixup(shared)).folder) == held(once.folder)


def test_what_does_not_decide_the_images_is_not_compared(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another way to the folder, how a model that is finished there would be trained, how many images fit in memory."""
    monkeypatch.chdir(tmp_path)
    others = {"diffusion_lr": 0.1, "conditioning": "token", "diffusion_width": 16, "sampling_batch": 8}
    grown = small(decoded, context, 50, synthesiser=mixup("shared", per_draw=8, epochs=7, **others))
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    assert grown.card.per_draw == 16  # as many as when it was begun
    pixels = [store.images().array for store in (grown, once)]
    assert pixels[0] is not None
    assert pixels[1] is not None
    np.testing.assert_allclose(pixels[0].astype(int), pixels[1], atol=1)  # sums in another order
    assert content(grown.folder)["shard-00000.parquet"] == content(once.folder)["shard-00000.parquet"]
    with pytest.raises(ConfigError, match=r"\(options\.guidance: 1\.0 then, 3\.0 now\)"):
        small(decoded, context, 60, synthesiser=mixup(shared, guidance=3))


def test_a_model_of_the_stores_own_is_trained_as_it_was(tmp_path: Path, context: PrepareContext) -> None:
    own = small(tmp_path / "s", context, 30, synthesiser=mixup(None))
    assert own.card.model is not None
    with pytest.raises(ConfigError, match=r"\(options\.diffusion_lr: 0\.001 then, 0\.01 now\)"):
        small(own.folder, context, 50, synthesiser=mixup(None, diffusion_lr=0.01))
    small(own.folder, context, 50, synthesiser=mixup(None))


def test_stores_that_do_not_know_their_model_go_on_and_learn_it(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path
) -> None:
    card = json.loads((decoded / "card.json").read_text())
    model = card.pop("model")
    (decoded / "card.json").write_text(json.dumps(card))  # as earlier versions wrote it
    assert small(decoded, context, 30, synthesiser=mixup(shared)).card.model is None
    elsewhere = shared.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"options\.diffusion_folder: "):  # nothing else tells models apart there
        small(decoded, context, 50, synthesiser=mixup(elsewhere))
    elsewhere.rename(shared)
    assert small(decoded, context, 50, synthesiser=mixup(shared)).card.model == model == open_store(decoded).card.model


def test_killed_between_shards_it_knows_its_model(
    tmp_path: Path, context: PrepareContext, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    real = store_module.write_shard

    def killed(folder: Path, index: int, rows: Rows) -> None:
        if index == 1:
            raise KeyboardInterrupt
        real(folder, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "s", context, 50, synthesiser=mixup(shared))
    assert list(content(tmp_path / "s")) == ["shard-00000.parquet"]
    assert open_store(tmp_path / "s").card.model is not None
    assert held(small(tmp_path / "s", context, 50, synthesiser=mixup(shared)).folder) == held(once.folder)


def test_pairs_are_told_apart_as_well(tmp_path: Path, context: PrepareContext) -> None:
    def mlm(**options: Any) -> MLM:
        form = {"pair_width": 4, "pair_latent": 8, "pair_epochs": 1, "pair_folder": str(tmp_path / "pair")}
        return MLM(16, 3, k=2, **{**form, **options})

    folder = small(tmp_path / "s", context, 20, synthesiser=mlm()).folder
    small(folder, context, 30, synthesiser=mlm(pair_epochs=2, pair_lr=0.1))
    shutil.rmtree(tmp_path / "pair")
    with pytest.raises(ConfigError, match=r"made otherwise \(model: "):
        small(folder, context, 40, synthesiser=mlm(pair_epochs=2))


def test_options_of_models_that_are_not_trained_here_stay_what_they_are(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(diffusion_base._MODELS, "mine", lambda *_: pytest.fail("made"))
    assert not DiffusionOptions(diffusion="mine", diffusion_folder="x").settled()
    stable = DiffusionOptions(diffusion="stable-diffusion", diffusion_model=str(tiny_pipeline)).settled()
    assert {"diffusion_folder", "diffusion_lr"} <= stable
    assert not {"diffusion_model", "prompt", "sampling_steps", "guidance"} & stable
    assert DiffusionOptions().settled() == {"diffusion_folder"}
    assert DiffusionOptions(diffusion_folder="x").settled() >= DiffusionOptions.training
    for kind in (DiffusionOptions, PairOptions, NCISOptions):
        assert kind.training | kind.knobs <= set(kind.model_fields)
    assert NCISOptions.knobs == {"sampling_batch", "embed_batch"}


# ------------------------------------------------------------------------------------------------------- in training


class Looking(Counting):
    """Uses the classifier."""

    name: ClassVar[str] = "looking"

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True


def test_stored_draws_from_the_store_it_filled(context: PrepareContext) -> None:
    source = Stored(shuffler(), 8, total=30)
    with pytest.raises(ConfigError, match="not filled yet"):
        source.pool()
    source.prepare(context)
    assert len(open_store(context.folder / "patch_shuffle")) == 30
    pool = source.pool()
    assert pool is not None
    generator = torch.Generator().manual_seed(0)
    source.start_epoch(4, generator)
    nothing = IDBatch(torch.zeros(0), torch.zeros(0))
    drawn = [source.sample(nothing, generator) for _ in range(4)]
    rows = torch.cat([d.rows for d in drawn if d.rows is not None])
    assert sorted(rows[:30].tolist()) == list(range(30))
    np.testing.assert_array_equal(torch.cat([d.data for d in drawn]).numpy(), pool.take(rows.numpy()))
    assert not source.state_dict()


def test_stored_goes_on_with_a_whole_store_whatever_the_classifier_is_now(context: PrepareContext) -> None:
    first = Looking(16, 3, grid=2)
    Stored(first, 8, total=30).prepare(context)
    with torch.no_grad():
        next(context.module.classifier.parameters()).add_(1)
    second = Looking(16, 3, grid=2)
    Stored(second, 8, total=30).prepare(context)  # a resumed run, some epochs later
    assert second.asked == 0
    with pytest.raises(ConfigError, match="classifier: "):  # guard synth with another classifier
        fill(context.folder / "looking", second, context, 30)


def test_stored_makes_as_many_as_there_are_training_images(context: PrepareContext) -> None:
    source = Stored(shuffler(), 8)
    source.prepare(context)
    assert len(source.pool() or ()) == 60


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


# ------------------------------------------------------------------------------------------------- several processes


def test_processes_make_their_shards_and_together_those_of_one(
    tmp_path: Path, context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small(tmp_path / "alone", context, 130)
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    found = []
    for rank in range(3):  # one after the other: 7 shards over 3 processes
        monkeypatch.setattr("train.outliers.store.store.processes", lambda rank=rank: Processes(rank, 3))
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
        monkeypatch.setattr("train.outliers.store.store.processes", lambda rank=rank: Processes(rank, 3))
        synthesiser = Counting(16, 3, grid=2)
        small(tmp_path / "s", context, 130, synthesiser=synthesiser)
        assert synthesiser.asked == expected
