"""What makes two runs of a benchmark the same one, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.benchmark.conftest import identities, plan_of
from train.benchmark.card import CARD, Card
from train.benchmark.sets import SOURCE
from train.benchmark.state import state_of
from train.cache.keyed import digest


def test_an_identity_changes_with_what_decides_the_network_and_with_nothing_else(small: dict[str, Any]) -> None:
    before = identities(small)
    assert before == identities({**small, "scores": ["msp"], "ood": {"far": {"n": "uniform_noise"}}, "name": "other"})
    beside = {"needs": {"gpu_hours": {"V100": 1}}, "published": [{"table": "1", "source": "x", "rows": [{"row": "y"}]}]}
    assert before == identities({**small, **beside, "only": ["plain", "phase_mix"]})
    changed = identities({**small, "methods": {"plain": {}, "phase_mix": {"init": "plain", "weight": 1.0}}})
    assert {place for place in before if before[place] != changed[place]} == {
        "wrn10_2/phase_mix-s0",
        "wrn10_2/phase_mix-s1",
    }
    changed = identities({**small, "methods": {"plain": {"lr": 0.05}, "phase_mix": {"init": "plain"}}})
    assert not set(before.values()) & set(changed.values())  # what starts from another network is another
    assert not set(before.values()) & set(identities({**small, "data": "digits:0-3"}).values())


RUNNING: list[dict[str, Any]] = [{"workers": 2}, {"threads": 1}, {"device": "auto"}]


def test_what_a_run_says_of_nothing_that_decides_keeps_its_identity(small: dict[str, Any]) -> None:
    """Of versions before this rule: finished runs stay valid."""
    small["training"] = {"image_size": 16, "batch_size": 64, "calibration": 60, "test": 60}
    assert identities(small) == {
        "wrn10_2/plain-s0": "096a5d489df7",
        "wrn10_2/phase_mix-s0": "417abd6eb3e4",
        "wrn10_2/plain-s1": "43804471114c",
        "wrn10_2/phase_mix-s1": "6dde28c43b1b",
    }


@pytest.mark.parametrize("running", RUNNING)
def test_what_only_runs_a_training_decides_nothing(
    running: dict[str, Any], small: dict[str, Any], tmp_path: Path
) -> None:
    def made(**training: Any) -> list[Any]:
        """Identities, and the folders of stores and shared models."""
        plan = plan_of({**small, "training": {**small["training"], **training}}, tmp_path)
        shared = [plan.request(run).options.get("pair", {}).get("folder") for run in plan.runs]
        told = [(plan.identity(run), plan.asked_for(run)) for run in plan.runs]
        return [told, shared, [plan.store("mixes", seed) for seed in (0, 1)]]

    small["methods"] |= {"mlm": {"pair": {"epochs": 1}}, "oe": {"outliers": "store:mixes"}}
    small["stores"] = {"mixes": {"method": "phase_mix", "count": 30}}
    before = made()
    assert made(**running) == before
    small["stores"]["mixes"] |= running
    small["methods"]["plain"] = running
    assert made() == before


def test_the_files_epochs_decide_nothing_of_a_method_that_says_its_own(small: dict[str, Any]) -> None:
    small["methods"] = {"plain": {}, "longer": {"method": "plain", "epochs": 3}}
    before, after = identities(small), identities({**small, "epochs": 2})
    assert {place for place in before if before[place] != after[place]} == {"wrn10_2/plain-s0", "wrn10_2/plain-s1"}


def test_what_versions_that_counted_more_have_made_is_taken(small: dict[str, Any], tmp_path: Path) -> None:
    small["methods"] = {
        "plain": {"workers": 2, "epochs": 3},
        "tuned": {"method": "phase_mix", "init": "plain", "outliers": "store:mixes"},
        "mlm": {"pair": {"epochs": 1}},
    }
    small["stores"] = {"mixes": {"method": "phase_mix", "count": 30, "workers": 2}}
    plan = plan_of(small, tmp_path)
    then = {}
    for run in plan.runs:  # in an order in which needed runs come first, as they were made
        then[run.place] = plan._identity(run, before=True)
        assert then[run.place] != plan.identity(run)
        plan.place(run).mkdir(parents=True)
        card = Card(identity=then[run.place], seconds=3600, asked=plan.asked_for(run, before=True))
        (plan.place(run) / CARD).write_text(card.model_dump_json())
        plan._identities[run.place] = then[run.place]
        assert state_of(plan, run, [], {}).spent == 1
    arguments = plan.store_arguments("mixes")
    store = tmp_path / "stores" / f"mixes-s0-{digest([plan.sets.identity(SOURCE), arguments])}"
    store.mkdir(parents=True)
    again = plan_of(small, tmp_path)
    assert {run.place: again.identity(run) for run in again.runs} == then
    assert again.store("mixes", 0) == store
    small["methods"]["plain"]["lr"] = 0.05
    changed = plan_of(small, tmp_path)
    assert not {changed.identity(run) for run in changed.runs if run.name != "mlm"} & set(then.values())
