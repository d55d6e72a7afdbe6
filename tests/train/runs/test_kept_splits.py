"""A network's own splits are kept by whatever begins with it: nothing that it learned calibrates or measures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import guard
from guard.data.test_images import calibration_images, id_test_images
from tests.conftest import RECIPES, Arrays

Tiny = dict[str, Any]


@pytest.fixture(scope="module")
def run(four: Arrays, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seed 1."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    guard.train(four, out=out, **{**tiny, "epochs": 1, "seed": 1})
    return out


def again(g: Any, data: Any) -> tuple[list[int], list[int]]:
    """The rows that guard.calibrate and guard.evaluate take."""
    calibration, _, _ = calibration_images(g.manifest, data, labelled=True)
    return calibration.rows.tolist(), id_test_images(g.manifest, data).images.rows.tolist()


@pytest.mark.parametrize("method", ["plain", "energy_ft", "oe"])
def test_a_training_keeps_the_splits_of_the_run_that_it_begins_with(
    method: str, run: Path, four: Arrays, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    first = guard.train(four, **{**tiny, "epochs": 1, "seed": 1})
    options = {**tiny, "epochs": 1, **RECIPES[method], "seed": 2, "test": 50}
    if "tune_epochs" in options:  # the run takes the place of the stage that reads epochs=
        del options["epochs"]
    with caplog.at_level(logging.WARNING, "ood_guard"):
        g = guard.train(four, init=run, **options)
    assert "test=50 is ignored: the split this network was trained with is kept" in caplog.text
    assert {name: rows.tolist() for name, rows in g.splits.items()} == {
        name: rows.tolist() for name, rows in first.splits.items()
    }
    assert g.manifest.seed == 2
    assert again(g, four) == (first.splits["calibration"].tolist(), first.splits["test"].tolist())


def test_a_guard_fitted_on_other_data_draws_both_again(run: Path, four: Arrays) -> None:
    first = again(guard.load(run, device="cpu"), four)
    other = 255 - four[0], four[1]
    g = guard.fit(run, other, seed=0)
    assert again(g, other) == (g.splits["calibration"].tolist(), g.splits["test"].tolist())
    assert again(g, four) == first  # what the network learned is not forgotten
    back = guard.fit(g, four, seed=5)
    assert (back.splits["calibration"].tolist(), back.splits["test"].tolist()) == first


def test_a_store_of_held_out_images_is_warned_of(
    four: Arrays, tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = {key: tiny[key] for key in ("calibration", "test") if key in tiny}
    store = tmp_path / "store"
    guard.synth(four, method="patch_shuffle", count=40, out=store, gallery=False, device="cpu", seed=1, **held_out)
    options = {**tiny, **RECIPES["oe"], "outliers": str(store), "epochs": 1}
    for seed, warned in ((1, False), (2, True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ood_guard"):
            guard.train(four, **{**options, "seed": seed})
        assert ("they may show held-out images" in caplog.text) is warned
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ood_guard"):  # of other data nothing is known
        guard.train((255 - four[0], four[1]), **{**options, "seed": 2})
    assert "they may show" not in caplog.text
