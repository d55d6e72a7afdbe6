"""A store is never mixed: one that was made otherwise, is damaged or is something else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.errors import ArtefactDamagedError, ArtefactNotFoundError, ArtefactVersionError, ConfigError
from tests.train.outliers.store.stores import content, images, shuffler, small
from train.outliers.base import PrepareContext
from train.outliers.images import PixelAverage
from train.outliers.store.store import Store, open_store

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
    r"data\.geometry\.resize: None then, 'squash' now": lambda f, s: small(
        f, replace(s, data=replace(s.data, preprocess=s.data.preprocess.model_copy(update={"resize": "squash"})))
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
    with pytest.raises(ArtefactNotFoundError, match="is not an outlier store"):
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
