"""`outliers=`: one or several stores, image sets and synthesisers, with weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import guard
from guard.cli.arguments import weighted
from guard.data import ImageData, load
from guard.data.union import union
from guard.errors import ArtefactDamagedError, ConfigError, UnknownNameError
from tests.conftest import Arrays
from train.engine.frozen_features import FrozenFeatures
from train.engine.stage_run import StageRun
from train.outliers.base import IDBatch, OutlierMix, list_synthesisers
from train.outliers.images import PatchShuffle, PixelAverage
from train.outliers.sources import Mixture, image_source, mix_fingerprint, outlier_mix, shares
from train.outliers.store import fill
from train.outliers.store.card import read_card, write_card
from train.outliers.store.drawing import Given
from train.outliers.store.store import open_store


def filled(value: int, n: int) -> ImageData:
    """n images of a value of their own: value, value + 1 ..."""
    pixels = np.arange(value, value + n, dtype=np.uint8)[:, None, None, None]
    return load(np.broadcast_to(pixels, (n, 8, 8, 3)).copy(), labelled=False)


def drawn(mix: OutlierMix, steps: int, count: int, seed: int = 0) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The source, the value of each image of all steps (steps, count), and their rows."""
    source = image_source(mix, count, 3)
    generator = torch.Generator().manual_seed(seed)
    source.start_epoch(steps, generator)
    batch = IDBatch(torch.full((6, 8, 8, 3), 250, dtype=torch.uint8), torch.arange(6) % 3)
    made = [source.sample(batch, generator) for _ in range(steps)]
    rows = torch.stack([m.rows for m in made]) if made[0].rows is not None else torch.zeros(0)
    return source, torch.stack([m.data[:, 0, 0, 0] for m in made]).long(), rows


# ------------------------------------------------------------------------------------------------------------- unions


def test_every_step_takes_its_shares_and_every_image_comes_before_any_comes_again() -> None:
    mix = {filled(0, 12): 2.0, filled(100, 8): 1.0}
    source, values, rows = drawn(mix, steps=4, count=6)
    assert isinstance(source, Mixture)
    assert ((values >= 100).sum(1) == 2).all()
    first = values[values < 100]
    assert sorted(first[:12].tolist()) == list(range(12))
    pool = source.pool()
    assert pool is not None
    assert len(pool) == 20
    np.testing.assert_array_equal(pool.take(rows.flatten().numpy())[:, 0, 0, 0], values.flatten().numpy())
    assert source.pool() is pool  # made once


def test_with_a_synthesiser_among_them_there_is_no_pool() -> None:
    source, values, rows = drawn({filled(0, 12): 1.0, "patch_shuffle": 1.0}, steps=2, count=6)
    assert source.pool() is None
    assert len(rows) == 0
    assert ((values == 250).sum(1) == 3).all()


def test_a_union_is_its_parts_one_after_the_other() -> None:
    parts = [filled(0, 3), filled(50, 4).subset(np.array([3, 1])), filled(90, 2)]
    whole = union(parts)
    assert whole.take(np.arange(7))[:, 0, 0, 0].tolist() == [0, 1, 2, 53, 51, 90, 91]
    assert whole.take(np.array([6, 0, 3, 3]))[:, 0, 0, 0].tolist() == [91, 0, 53, 53]
    assert [b[:, 0, 0, 0].tolist() for b, _ in whole.batches(3)] == [[0, 1, 2], [53, 51, 90], [91]]
    assert whole.fingerprint != union(parts[::-1]).fingerprint
    with pytest.raises(guard.errors.DataError, match="load them alike"):
        union([filled(0, 2), load(np.zeros((2, 4, 4, 3), np.uint8), labelled=False)])


def test_a_frozen_stage_looks_once_at_each_image_of_a_union(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    whole = FrozenFeatures._of_all

    def counted(self: FrozenFeatures, feed: Any, title: str) -> Any:
        looked.append(len(feed))
        return whole(self, feed, title)

    monkeypatch.setattr(FrozenFeatures, "_of_all", counted)
    sets = [
        load(np.random.default_rng(i).integers(0, 256, (n, 16, 16, 3), np.uint8), labelled=False)
        for i, n in ((0, 40), (1, 30))
    ]
    options = {**tiny, "backbone": "wrn10_2", "epochs": 1, "hidden": 8, "tune_epochs": 2}
    mix: Any = {sets[0]: 2.0, sets[1]: 1.0}
    few = four[0][:200], four[1][:200]
    guard.train(few, method="rejection", outliers=mix, **options)
    assert looked[1] == 70
    assert len(looked) == 2


# ------------------------------------------------------------------------------------------------- what may be given


@pytest.fixture
def stores(four: Arrays, tmp_path: Path) -> list[str]:
    """Two stores of shuffled patches."""
    made = []
    for grid in (2, 4):
        folder = str(tmp_path / f"grid{grid}")
        guard.synth(four, method="patch_shuffle", grid=grid, count=40, out=folder, gallery=False, device="cpu")
        made.append(folder)
    return made


def test_stores_lists_and_weights_become_a_mix(stores: list[str], four: Arrays) -> None:
    preprocess = load(four).preprocess
    one, other = (outlier_mix(folder, preprocess) for folder in stores)
    both = outlier_mix({stores[0]: 2, stores[1]: 1, "patch_mix": 0.5}, preprocess)
    assert one is not None
    assert both is not None
    assert list(both.values()) == [2.0, 1.0, 0.5]
    assert mix_fingerprint(both) == f"2 {mix_fingerprint(one)} + 1 {mix_fingerprint(other)} + 0.5 patch_mix"
    assert mix_fingerprint(outlier_mix(stores, preprocess)) == f"1 {mix_fingerprint(one)} + 1 {mix_fingerprint(other)}"
    assert mix_fingerprint(one) != mix_fingerprint(other)


def test_a_store_that_is_not_whole_is_not_used(stores: list[str], four: Arrays) -> None:
    next(Path(stores[0]).glob("*.parquet")).unlink()
    with pytest.raises(ArtefactDamagedError, match="lacks 1 of its 1 shards"):
        guard.train(four, method="oe", outliers=stores[0], device="cpu")


@pytest.mark.parametrize("weight", [0, -1, True, "2", float("inf")])
def test_weights_that_are_none(weight: Any, four: Arrays) -> None:
    with pytest.raises(ConfigError, match="the weight of outliers 'patch_mix' must be a number above 0"):
        outlier_mix({"patch_mix": weight}, load(four).preprocess)


def test_on_the_command_line() -> None:
    assert weighted(["stores/a"]) == "stores/a"
    assert weighted(["stores/a=2", "stores/b=0.5", "strokes"]) == {"stores/a": 2, "stores/b": 0.5, "strokes": 1.0}
    assert weighted(["key=value/images"]) == "key=value/images"
    assert weighted(["stores/a=0"]) == {"stores/a": 0}  # refused by guard.train
    with pytest.raises(ConfigError, match="'a' were named twice"):
        weighted(["a", "a=2"])


# ----------------------------------------------------------------------------------------------------------- resuming


def test_a_run_on_weighted_stores_resumes_with_the_same_weights_and_no_others(
    stores: list[str], four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**tiny, "backbone": "wrn10_2", "epochs": 2, "method": "oe", "ratio": 1.0}
    mix = {stores[0]: 3, stores[1]: 1}
    few = four[0][:200], four[1][:200]
    whole = guard.train(few, outliers=mix, out=tmp_path / "whole", **options)
    epoch = StageRun.epoch

    def killed(self: StageRun, number: int) -> dict[str, float]:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(StageRun, "epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        guard.train(few, outliers=mix, out=tmp_path / "killed", **options)
    monkeypatch.setattr(StageRun, "epoch", epoch)
    with pytest.raises(ConfigError, match=r"outliers_fingerprint: '3 .* 1 .*' then, '1 .* 1 .*' now"):
        guard.train(few, outliers=stores, out=tmp_path / "killed", resume=True, **options)
    resumed = guard.train(few, outliers=mix, out=tmp_path / "killed", resume=True, **options)
    ours, theirs = (g.module.state_dict() for g in (whole, resumed))
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_a_synthesiser_that_prepares_draws_from_a_store_which_a_resumed_run_goes_on_with(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchShuffle, "prepared", True)
    monkeypatch.setattr(fill, "SHARD_SIZE", 30)
    options: dict[str, Any] = {**tiny, "backbone": "wrn10_2", "epochs": 1, "hidden": 8, "tune_epochs": 2}
    few = four[0][:200], four[1][:200]
    whole = guard.train(few, method="rejection", outliers="patch_shuffle", out=tmp_path / "whole", **options)
    write = fill.write_shard

    def killed(folder: Path, index: int, rows: Any) -> Path:
        if index == 2:
            raise KeyboardInterrupt
        return write(folder, index, rows)

    monkeypatch.setattr(fill, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        guard.train(few, method="rejection", outliers="patch_shuffle", out=tmp_path / "killed", **options)
    kept = tmp_path / "killed" / "outliers" / "patch_shuffle"
    assert sorted(p.name for p in kept.glob("*.parquet")) == ["shard-00000.parquet", "shard-00001.parquet"]
    monkeypatch.setattr(fill, "write_shard", write)
    resumed = guard.train(
        few, method="rejection", outliers="patch_shuffle", out=tmp_path / "killed", resume=True, **options
    )
    assert len(open_store(kept)) == len(whole.splits["train"])
    np.testing.assert_array_equal(*(g.predict(four[0][:50]).ood_score for g in (whole, resumed)))
    assert not [key for key in load_file(tmp_path / "whole" / "checkpoint.safetensors") if "synthesiser" in key]


def test_weights_divide_a_step() -> None:
    assert shares([1, 1, 2], 8) == [2, 2, 4]
    assert sum(shares([5.0, 1e-6], 7)) == 7
    assert min(shares([5.0, 1e-6], 7)) == 1
    with pytest.raises(ConfigError, match="at least as many outliers per step, got 1; give a larger batch_size"):
        shares([1, 1], 1)
    with pytest.raises(ConfigError, match="above 0"):
        shares([1, 0], 4)


# ------------------------------------------------------------------------------------------------------------ by name


def test_image_source_by_name_or_data() -> None:
    assert isinstance(image_source({"patch_shuffle": 1.0}, 3, 5), PatchShuffle)
    assert isinstance(image_source({"pixel_average": 1.0}, 3, 5), PixelAverage)
    assert isinstance(image_source({filled(0, 10): 1.0}, 3, 5), Given)
    assert all(image_source({name: 1.0}, 3, 5).space == "image" for name in list_synthesisers())
    with pytest.raises(UnknownNameError, match="did you mean 'patch_shuffle'"):
        image_source({"patch_shufle": 1.0}, 3, 5)
    with pytest.raises(ConfigError, match="learns from outlier images"):
        image_source(None, 3, 5)


def test_in_distribution_images_are_no_outliers(tmp_path: Path, four: Arrays) -> None:
    """Dream-ID's, by name and as a store: its card says so, and of older cards the maker does."""
    preprocess = load(four).preprocess
    with pytest.raises(ConfigError, match="outliers='dream_id' holds in-distribution images"):
        outlier_mix("dream_id", preprocess)
    folder = tmp_path / "store"
    guard.synth(four, method="strokes", out=folder, count=8, device="cpu", gallery=False)
    assert outlier_mix(str(folder), preprocess)
    card = read_card(folder)
    assert card is not None
    assert not card.in_distribution
    for says in ({"in_distribution": True}, {"synthesiser": "dream_id"}):
        write_card(folder, card.model_copy(update=says))
        with pytest.raises(ConfigError, match=r"holds in-distribution images.*method='dream_id'"):
            outlier_mix({str(folder): 1.0}, preprocess)


class AsItIs(PatchShuffle):
    augmented = False


def test_a_part_that_is_not_augmented_alone_is_not_in_a_mixture() -> None:
    """As the engine augments outliers; pixels that were chosen one by one lose what they say when they move."""
    source = Mixture({PatchShuffle: 1.0, AsItIs: 1.0}, 8, lambda kind, n: kind(n, 3))
    images = torch.randint(0, 255, (6, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outliers = source.sample(IDBatch(images, torch.arange(6) % 3), torch.Generator().manual_seed(1))
    engine: Any = SimpleNamespace(
        synthesiser=source, _augmented=lambda images, _: 255 - images, _mixed=lambda images, _: None
    )
    shown = StageRun._augmented_outliers(engine, outliers, torch.Generator())
    torch.testing.assert_close(shown[:4], 255 - outliers.data[:4])
    torch.testing.assert_close(shown[4:], outliers.data[4:])
