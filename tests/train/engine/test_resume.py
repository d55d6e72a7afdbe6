"""A run that is killed at any moment ends as an uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import guard
from guard.errors import ArtefactDamagedError, ConfigError
from tests.conftest import RECIPES, Arrays
from tests.train.engine.killed_run import killed
from tests.train.engine.runs import Tiny, assert_equal, short
from train.engine.checkpoint import NAME as CHECKPOINT

RESUMED = {
    "plain": {"method": "plain", "epochs": 4, "ema": 0.9, "augment": "crop+flip"},
    "vos": {"method": "vos", "epochs": 4, "start": 0.25, "queue": 20, "score": "energy_logistic"},
    # its directions and shells are found when an epoch begins
    "gcos": {"method": "gcos", "epochs": 4, "start": 0.25, "queue": 20, "weight": 1.0},
    "npos": {**RECIPES["npos"], "epochs": 4},
    # its margins are those of the network that the stage began with
    "energy_ft": {**RECIPES["energy_ft"], "epochs": 2, "outliers": "low_pass_noise"},
    "rejection": {"method": "rejection", "epochs": 2, "tune_epochs": 2, "hidden": 32},
    "rotpred": {"method": "rotpred", "epochs": 3, "ratio": 1.5, "outliers": "phase_mix", "augment": "crop+flip"},
    "mim": {"method": "mim", "epochs": 2, "tune_epochs": 2, "tune_lr": 0.01, "k": 3, "ema": 0.9},
    # its gradients are the network's at that step; alpha falls from epoch to epoch
    "ascood": {"method": "ascood", "epochs": 4, "mode": "gradient", "step": 50.0, "step_end": 5.0, "share": 0.3},
    "cutmix": {"method": "oe", "outliers": "patch_shuffle", "epochs": 3, "augment": "crop+resample+cutmix"},
    "pixmix": {"method": "oe", "outliers": "patch_shuffle", "epochs": 3, "augment": "crop+pixmix+cutout"},
    # heads whose loss has a state of its own
    "adacos": {"head": "adacos", "head_options": {"adaptive": True}, "epochs": 3},
    "sphereface": {"head": "sphereface", "epochs": 3},
    "hypersphere": {"head": "hypersphere", "epochs": 3, "ema": 0.9},
}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("plain", (0, 2, 1)),  # stage, epochs done, steps into the next
        ("vos", (0, 3, 2)),
        ("gcos", (0, 3, 2)),
        ("npos", (0, 3, 2)),
        ("energy_ft", (1, 3, 1)),
        ("rejection", (1, 3, 1)),  # in the second epoch of the second stage
        ("rotpred", (0, 2, 1)),
        ("mim", (1, 2, 2)),  # at the end of the second stage's first epoch, before its checkpoint
        ("ascood", (0, 2, 2)),
        ("pixmix", (0, 2, 1)),
        ("cutmix", (0, 2, 1)),
        ("adacos", (0, 2, 1)),
        ("sphereface", (0, 2, 1)),
        ("hypersphere", (0, 2, 1)),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    name: str, where: tuple[int, int, int], four: Arrays, tiny: Tiny, tmp_path: Path
) -> None:
    options = {**tiny, **RESUMED[name]}
    whole = guard.train(short(four), out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    killed(*short(four), where, out, options)
    assert not (out / "guard.json").exists()
    before = (out / "metrics.jsonl").read_text().splitlines()
    resumed = guard.train(short(four), out=out, resume=True, **options)
    assert_equal(resumed, whole)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    assert strip(lines) == strip((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    assert_equal(guard.load(out, device="cpu"), whole)


def strip(lines: list[str]) -> list[dict[str, Any]]:
    """The records without what differs between two equal runs: the time."""
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def test_the_journal_has_one_line_per_epoch_and_none_twice(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, **RESUMED["rejection"]}
    guard.train(short(four), out=tmp_path, **options)
    journal = tmp_path / "metrics.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(r["stage"], r["epoch"]) for r in records] == [
        ("classifier", 1),
        ("classifier", 2),
        ("rejection", 1),
        ("rejection", 2),
    ]
    assert {"loss", "ce", "accuracy", "lr", "seconds"} <= set(records[0])
    assert "rejection" in records[2]
    assert "ce" not in records[2]
    # lines of an epoch after the checkpoint, and one that a kill cut short, are dropped
    with journal.open("a") as file:
        file.write(json.dumps({"stage": "rejection", "stage_index": 1, "epoch": 3}) + "\n" + '{"stage": "rej')
    guard.train(short(four), out=tmp_path, resume=True, **options)
    assert [json.loads(line) for line in journal.read_text().splitlines()] == records


def test_resuming_a_finished_run_changes_nothing(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, **RESUMED["vos"]}
    first = guard.train(short(four), out=tmp_path, **options)
    assert_equal(guard.train(short(four), out=tmp_path, resume=True, **options), first)


def test_resume_without_a_checkpoint_starts_anew(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    g = guard.train(short(four), out=tmp_path / "new", resume=True, **{**tiny, "epochs": 1})
    assert_equal(g, guard.train(short(four), **{**tiny, "epochs": 1}))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.05}, r"lr: 0\.1 then, 0\.05 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"method": "vos"}, "method: 'plain' then, 'vos' now"),
        ({"augment": "crop", "batch_size": 16}, "batch_size: 32 then, 16 now; augment: 'none' then, 'crop' now"),
    ],
)
def test_resuming_with_other_arguments_names_them(
    changed: Tiny, named: str, four: Arrays, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.getbasetemp() / "resumed-otherwise"
    options = {**tiny, "epochs": 1}
    if not out.exists():
        guard.train(short(four), out=out, **options)
    with pytest.raises(ConfigError, match=f"holds a run with other arguments.*{named}.*choose another out folder"):
        guard.train(short(four), out=out, resume=True, **{**options, **changed})


def test_resuming_with_another_alpha_gives_its_threshold(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    """Nothing that is trained depends on it."""
    options = {**tiny, "epochs": 1}
    guard.train(short(four), out=tmp_path, alpha=0.1, **options)
    found = guard.train(short(four), out=tmp_path, resume=True, alpha=0.2, **options)
    assert_equal(found, guard.train(short(four), alpha=0.2, **options))


def test_resuming_with_other_data_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **{**tiny, "epochs": 1})
    changed = four[0][::3].copy()
    changed[0, 0, 0] ^= 1
    with pytest.raises(ConfigError, match="data_fingerprint: "):
        guard.train((changed, four[1][::3]), out=tmp_path, resume=True, **{**tiny, "epochs": 1})


def test_a_damaged_checkpoint_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(
        ArtefactDamagedError, match=r"checkpoint\.safetensors is damaged .*remove it to start the run anew"
    ):
        guard.train(short(four), out=tmp_path, resume=True, **tiny)


def test_a_checkpoint_cut_short_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **{**tiny, "epochs": 1})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactDamagedError, match="is damaged"):
        guard.train(short(four), out=tmp_path, resume=True, **{**tiny, "epochs": 1})
