"""benchmarks/papers: each file says what the code takes, prints its plan without data, and runs at a small scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import guard
from guard.benchmark_published import AVERAGE, PUBLISHED_METRICS
from guard.requests import BenchmarkRequest
from tests.benchmarks.papers_scaled import FILES, PAPERS, keys_of, scaled_down
from train.benchmark.asked import asked_scores
from train.benchmark.expected import Outlook
from train.benchmark.file import read
from train.benchmark.outlook import outlook

QUICK = (("oal_cifar10", "only", ["plain", "oal"]),)
AS_PRINTED = {  # averages that a paper prints and its own columns do not give, by more than rounding
    ("dmr_cifar100", "Table 4", "Energy"),
}


@pytest.fixture(scope="module")
def plans() -> dict[str, Outlook]:
    """Of every method of every file, one seed."""
    return {
        name: outlook(BenchmarkRequest(file=PAPERS / f"{name}.yaml", settings={"only": [], "seeds": [0]}))
        for name in FILES
    }


def test_there_is_a_file_for_every_headline_table() -> None:
    of_cifar10 = {"dmr_cifar10", "label_mixup_cifar10", "oal_cifar10"}
    of_cifar100 = {"dmr_cifar100", "dream_ood_cifar100", "ncis_cifar100", "oal_cifar100"}
    assert set(FILES) == of_cifar10 | of_cifar100 | {"dream_ood_imagenet100", "ncis_imagenet100"}


@pytest.mark.parametrize("name", FILES)
def test_a_plan_needs_neither_images_nor_weights(name: str, plans: dict[str, Outlook]) -> None:
    plan, keys = plans[name], keys_of(name)
    made = {line.method.split(", ")[0] for line in plan.lines if line.task.kind == "train"}
    assert {method.split(", ")[0] for method in keys["methods"]} == made
    assert {"train", "test"} <= set(plan.missing)
    assert all(one.images for one in plan.inputs), "a set whose size is not stated"
    assert sum(plan.hours().values()) > 1
    text = str(plan)
    for title in keys["methods"]:
        assert title in text
    assert "an estimate" in text
    assert "missing on this machine: train" in text


@pytest.mark.parametrize("name", FILES)
def test_the_stated_hours_and_disk_are_those_of_the_plan(name: str, plans: dict[str, Outlook]) -> None:
    keys = keys_of(name)
    seeds = keys["seeds"] if isinstance(keys["seeds"], int) else len(keys["seeds"])
    wanted = [f"{method}, " for method in keys.get("only", keys["methods"])]  # a head may follow
    lines = [
        line for line in plans[name].lines if f"{line.method}, " in wanted or line.method.endswith(("head", "mixed"))
    ]
    hours: dict[str, float] = {}
    for line in lines:
        if line.task.hours:
            gpu = line.task.speed.gpu
            hours[gpu] = hours.get(gpu, 0.0) + seeds * line.times * line.task.hours
    assert keys["needs"]["gpu_hours"] == pytest.approx(hours, rel=0.05, abs=0.1)
    disk = sum(seeds * line.times * line.task.size for line in lines)
    assert keys["needs"]["disk_gb"] == pytest.approx(disk / 1e9, rel=0.05, abs=0.1)


@pytest.mark.parametrize("name", FILES)
def test_published_numbers_agree_with_their_averages_and_name_what_is_run(name: str) -> None:
    asked, _ = read(BenchmarkRequest(file=PAPERS / f"{name}.yaml"))
    sets = {*asked.ood.near, *asked.ood.far, AVERAGE}
    file_scores = {score.label for score in asked_scores(asked.scores)}
    assert asked.published
    for table in asked.published:
        assert set(table.sets) <= sets
        for row in table.rows:
            if row.method is not None:
                own = asked.methods[row.method].get("scores")
                labels = (
                    {score.label for score in asked_scores([own] if isinstance(own, str) else own)} if own else set()
                )
                assert row.score in labels | file_scores | OWN_SCORES, row
            assert set(row.accuracies) <= set(asked.data.shifted)
            for metric in PUBLISHED_METRICS:
                cells = dict(zip(table.sets, getattr(row, metric), strict=False))
                if AVERAGE in cells and len(cells) > 2 and (name, table.table, row.row) not in AS_PRINTED:
                    mean = sum(v for k, v in cells.items() if k != AVERAGE) / (len(cells) - 1)
                    assert cells[AVERAGE] == pytest.approx(mean, abs=0.06), (table.table, row.row, metric)


OWN_SCORES = {"rejection", "knn", "energy", "msp"}  # of methods that are scored by their own


@pytest.mark.parametrize("name", FILES)
def test_values_say_where_they_are_from(name: str) -> None:
    text = (PAPERS / f"{name}.yaml").read_text(encoding="utf-8")
    head, body = text.split("name:", 1)[0], text.partition("\nneeds:")[0]
    assert "docs/papers/" in head
    assert "--plan" in head
    for key in ("backbones", "epochs", "seeds", "batch_size", "lr", "augment"):
        (line,) = re.findall(rf"^ *{key}: .*$", body, re.MULTILINE)[:1]
        assert "#" in line or key == "seeds", f"{key} of {name} names no source"


@pytest.mark.parametrize(("name", "key", "value"), QUICK)
def test_a_quick_one_runs_at_a_small_scale(
    name: str, key: str, value: Any, tiny_pipeline: Path, tmp_path: Path
) -> None:
    _runs({**scaled_down(name, tiny_pipeline, tmp_path), key: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_each_runs_at_a_small_scale(name: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    keys = scaled_down(name, tiny_pipeline, tmp_path)
    _runs(keys)
    left = outlook(BenchmarkRequest(file={**keys, "needs": {}}))
    assert not any(left.hours(left=True).values())


def _runs(keys: dict[str, Any]) -> None:
    results = guard.benchmark(keys)
    methods = {row["method"] for row in results.rows}
    assert methods == set(keys.get("only") or keys["methods"])
    text = (results.folder / "published.csv").read_text(encoding="utf-8")
    beside = [line for line in text.splitlines()[1:] if line.rsplit(",", 3)[1]]
    assert beside, "no published number has one of ours beside it"
