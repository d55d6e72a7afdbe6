"""Pictures of the user's own for PixMix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import guard
from guard.data import load
from guard.errors import ConfigError, MissingDataError
from guard.manifest import Preprocess
from tests.conftest import Arrays
from tests.train.engine.runs import Tiny, assert_equal, short
from train.augmentations import given
from train.augmentations.base import AugmentContext
from train.augmentations.given import as_tensor, mixing_set
from train.augmentations.pixmix import PixMix


def folder(path: Path, seed: int = 0) -> Path:
    path.mkdir()
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (6, 30, 50, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_an_eighth_larger_than_the_images(tmp_path: Path, channels: int) -> None:
    preprocess = Preprocess(height=16, width=16, channels=channels, resize="pad", resize_to=(20, 20))  # type: ignore[arg-type]
    pictures = mixing_set(folder(tmp_path / "own"), preprocess, 0)
    assert pictures is not None
    tensor = as_tensor(pictures)
    expected = load(tmp_path / "own", image_size=18, channels=channels, labelled=False)
    assert tensor.shape == (6, 18, 18, channels)
    assert tensor.equal(torch.from_numpy(np.concatenate([b for b, _ in expected.batches(6)])))
    step = PixMix(AugmentContext(16, 16, channels, (0.0,) * channels, 0, torch.device("cpu"), tensor))
    assert step.pictures.equal(tensor)


def test_too_many_are_drawn_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "BYTES", 3 * 18 * 18 * 3)
    preprocess = Preprocess(height=16, width=16)
    own = folder(tmp_path / "own")
    made = [mixing_set(own, preprocess, seed) for seed in (0, 0, 1, 2, 3)]
    rows = [tuple(m.rows.tolist()) for m in made if m is not None]
    assert {len(r) for r in rows} == {3}
    assert rows[0] == rows[1]
    assert len(set(rows)) > 1


def test_it_trains_and_a_resumed_run_wants_the_same(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, "epochs": 1, "augment": "crop+pixmix"}
    own, other = folder(tmp_path / "own"), folder(tmp_path / "other", 1)
    first = guard.train(short(four), mixing_set=own, out=tmp_path / "run", **options)
    assert_equal(guard.train(short(four), mixing_set=own, out=tmp_path / "run", resume=True, **options), first)
    for wrong in (other, None):
        with pytest.raises(ConfigError, match="mixing_fingerprint: "):
            guard.train(short(four), mixing_set=wrong, out=tmp_path / "run", resume=True, **options)
    without = guard.train(short(four), **options)
    assert any(not a.equal(b) for a, b in zip(*(g.module.state_dict().values() for g in (first, without)), strict=True))


@pytest.mark.parametrize("augment", ["auto", "crop+flip", "cutout"])
def test_pictures_that_nothing_reads_are_refused(augment: str) -> None:
    with pytest.raises(
        ConfigError, match=f"mixing_set= is not read with augment='{augment.replace('+', '.')}'; drop it"
    ):
        guard.train("no such folder", augment=augment, mixing_set="pictures")


def test_a_wrong_path_costs_no_training(four: Arrays, tiny: Tiny) -> None:
    with pytest.raises(MissingDataError, match="no-pictures"):
        guard.train(short(four), mixing_set="no-pictures", **{**tiny, "augment": "pixmix"})
