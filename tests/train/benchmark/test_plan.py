"""What a benchmark runs, in which order, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guard.data import load
from guard.data.held_out import Draw
from guard.errors import GuardError
from tests.train.benchmark.conftest import plan_of
from train.benchmark.plan import Plan, plain
from train.benchmark.training import _make_stores
from train.runs.synth import divided


def test_each_run_comes_after_the_one_that_it_starts_from(small: dict[str, Any], tmp_path: Path) -> None:
    small["methods"] = {"tuned": {"method": "phase_mix", "init": "run:plain"}, "plain": {}}
    plan = plan_of(small, tmp_path)
    places = [run.place for run in plan.runs]
    assert places == [f"wrn10_2/{name}-s{seed}" for seed in (0, 1) for name in ("plain", "tuned")]
    assert plan.request(plan.runs[1]).init == tmp_path / "runs" / "wrn10_2" / "plain-s0"
    assert [run.place for run in plan.runs[3].ancestors()] == ["wrn10_2/plain-s1"]


def test_heads_multiply_the_methods_that_do_not_name_one(small: dict[str, Any]) -> None:
    small |= {"heads": ["linear", "cosine"], "seeds": [4]}
    small["methods"]["plus"] = {"method": "plain", "head": "c_plus_1", "init": "plain"}
    runs = {run.place: run for run in plan_of(small).runs}
    assert list(runs) == [f"wrn10_2/{n}-s4" for n in ("plain-linear", "plain-cosine", "phase_mix-linear",
                                                       "phase_mix-cosine", "plus")]  # fmt: skip
    assert runs["wrn10_2/phase_mix-cosine-s4"].needs["plain"].place == "wrn10_2/plain-cosine-s4"
    assert runs["wrn10_2/plus-s4"].needs["plain"].place == "wrn10_2/plain-linear-s4"


def test_own_is_the_score_of_the_method_and_each_score_is_there_once(small: dict[str, Any]) -> None:
    small |= {"scores": ["own", "energy+vim", "knn"]}
    small["methods"]["vos"] = {"score": "energy_logistic", "scores": ["own", "energy_logistic+knn"]}
    labels = {run.name: [score.label for score in run.scores] for run in plan_of(small).runs}
    assert labels["plain"] == ["energy+fdbd+multilayer_mahalanobis", "energy+vim", "knn"]
    assert labels["phase_mix"] == ["energy+vim", "knn"]
    assert labels["vos"] == ["energy_logistic", "energy_logistic+knn"]


def test_own_is_called_what_it_is(small: dict[str, Any]) -> None:
    """Its options are in its name, so that it stands beside the same score with others."""
    small |= {"scores": ["own", "energy", "energy+knn"], "seeds": [0]}
    small["methods"] = {
        "hot": {"method": "plain", "score": "energy", "score_options": {"temperature": 5.0}},
        "two": {"method": "plain", "score": "combined", "score_options": {"parts": ["energy", "knn"]}},
        "same": {"method": "plain", "score": "energy"},
        "said": {"method": "plain", "score": "msp", "scores": [{"name": "own", "label": "its own"}, "msp"]},
    }
    found = {run.name: {score.label: dict(score.options) for score in run.scores} for run in plan_of(small).runs}
    assert found["hot"] == {"energy (temperature=5.0)": {"temperature": 5.0}, "energy": {}, "energy+knn": {}}
    assert found["two"] == {"energy+knn": {}, "energy": {}}
    assert list(found["same"]) == ["energy", "energy+knn"]
    assert list(found["said"]) == ["its own", "msp"]


def test_models_that_are_trained_first_are_shared(small: dict[str, Any], tmp_path: Path) -> None:
    small["stores"] = {
        "means": {"method": "mlm", "count": 8, "pair": {"epochs": 1}},
        "theirs": {"method": "mlm", "count": 8, "pair": {"folder": "mine"}},
    }
    small["methods"] = {
        "plain": {},
        "dmr": {"pair": {"epochs": 1}},
        "mlm": {"pair": {"epochs": 1}},
        "longer": {"method": "mlm", "pair": {"epochs": 2}},
        "elsewhere": {"method": "mlm", "pair": {"folder": "mine"}},
        "from the store": {"method": "mlm", "outliers": "store:means"},
    }
    plan = plan_of(small, tmp_path)
    folders = {run.name: plan.request(run).options.get("pair", {}).get("folder") for run in plan.runs if not run.seed}
    assert folders["plain"] is None
    assert folders["dmr"] == folders["mlm"]
    assert Path(folders["dmr"]).parent == tmp_path / "shared"
    assert folders["longer"] not in (None, folders["mlm"])
    assert folders["elsewhere"] == "mine"
    assert folders["from the store"] is None  # it trains no pair, and refuses to be told of one
    assert plan.store_request("means", 0).options["pair"]["folder"] == folders["mlm"]
    assert plan.store_request("theirs", 0).options["pair"]["folder"] == "mine"


def test_pictures_that_are_mixed_in_are_looked_up_and_count_by_their_content(
    small: dict[str, Any], tmp_path: Path
) -> None:
    from PIL import Image

    def plan() -> Plan:
        return plan_of({**small, "root": str(tmp_path), "methods": {"mixed": mixed}}, tmp_path)

    mixed = {"method": "plain", "augment": "crop+pixmix", "mixing_set": "pictures"}
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "pictures" / "a.png")
    before = plan()
    assert before.request(before.runs[0]).mixing_set == str(tmp_path / "pictures")
    assert plan().identity(before.runs[0]) == before.identity(before.runs[0])
    Image.new("RGB", (16, 16), (9, 9, 8)).save(tmp_path / "pictures" / "a.png")
    after = plan()
    assert after.identity(after.runs[0]) != before.identity(before.runs[0])
    mixed["mixing_set"] = "./none_such"
    with pytest.raises(GuardError, match="none_such"):
        plan()


def test_stores_and_weights_of_outliers(small: dict[str, Any], tmp_path: Path) -> None:
    small["stores"] = {"mixes": {"method": "phase_mix", "count": 30}}
    small["methods"] = {"one": {"method": "oe", "outliers": "store:mixes"},
                        "two": {"method": "oe", "outliers": {"store:mixes": 2, "patch_shuffle": 1}}}  # fmt: skip
    plan = plan_of(small, tmp_path)
    store = str(plan.store("mixes", 0))
    assert Path(store).parent == tmp_path / "stores"
    assert [plan.request(run).outliers for run in plan.runs[:2]] == [store, {store: 2, "patch_shuffle": 1}]
    other = plan_of({**small, "stores": {"mixes": {"method": "phase_mix", "count": 31}}}, tmp_path)
    assert other.store("mixes", 0) != plan.store("mixes", 0)  # what was made otherwise is not continued
    assert plan.identity(plan.runs[0]) != other.identity(other.runs[0])


def test_a_store_is_made_of_the_images_that_are_trained_on(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr("train.benchmark.training.synth", made.append)
    small["training"] |= {"outliers": "store:mixes"}
    small |= {"stores": {"mixes": {"method": "phase_mix", "count": 30}}, "methods": {"oe": {}}}
    plan = plan_of(small, tmp_path)
    _make_stores(plan, plan.runs[1])
    (request,) = made
    assert (request.calibration, request.test, request.seed) == (60, 60, 1)
    trained_on = plan.request(plan.runs[1])
    ours = Draw(trained_on.seed, trained_on.calibration, trained_on.test).rows(plan.sets.source)["train"]
    np.testing.assert_array_equal(divided(plan.sets.source, request, None)[0].rows, plan.sets.source.rows[ours])
    small["training"]["test"] = 50
    assert plan_of(small, tmp_path).store("mixes", 1) != request.out


def test_a_method_lists_scores_as_the_file_does(small: dict[str, Any]) -> None:
    small["methods"] = {"plain": {"scores": {"name": "knn", "k": 3}}, "phase_mix": {"scores": "msp"}}
    assert [[score.label for score in run.scores] for run in plan_of(small).runs[:2]] == [["knn (k=3)"], ["msp"]]


def test_long_names_become_short_paths() -> None:
    names = ["é" * 300, "é" * 301]
    assert plain("plain, cosine") == "plain-cosine"
    assert len({plain(name) for name in names}) == 2
    assert all(len(plain(name).encode()) < 100 for name in names)


def test_images_that_were_loaded_before_are_no_more_than_asked_for(small: dict[str, Any]) -> None:
    sets = plan_of(small).sets
    images = load("digits:8-9", preprocess=sets.source.preprocess, labelled=False)
    found = plan_of({**small, "ood": {"far": {"x": images, "again": "digits:8-9"}}}).sets
    assert len(found.ood["x"]) == 40
    assert found.identity("x") == found.identity("again")
    with pytest.raises(GuardError, match="is needed otherwise"):
        plan_of({**small, "ood": {"far": {"x": load("digits:8-9", labelled=False, image_size=20)}}})


def test_what_guard_train_takes_in_python_is_taken(small: dict[str, Any], tmp_path: Path) -> None:
    """Numbers of numpy and torch, paths, devices, and images in memory: as the same in a file."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"x")
    pixels = np.zeros((8, 16, 16, 3), np.uint8)

    def made(number: Any, path: Any, device: Any) -> dict[str, str]:
        small["methods"] = {
            "plain": {"lr": number(0.5), "batch_size": np.int64(32) if number is np.float32 else 32},
            "shown": {"method": "plain", "pretrained": path(weights)},
            "tuned": {"method": "phase_mix", "init": path("plain"), "tune_epochs": np.int64(2)},
            "oe": {"outliers": pixels},
        }
        small["training"]["device"] = device("cpu")
        small["scores"] = [{"name": "knn", "k": np.int64(3)}]
        plan = plan_of(small, tmp_path)
        assert [run.scores[0].label for run in plan.runs] == ["knn (k=3)"] * 8
        assert plan.request(plan.runs[3]).outliers is pixels
        return {run.place: plan.identity(run) for run in plan.runs}

    assert made(np.float32, Path, torch.device) == made(float, str, str) == made(torch.tensor, str, str)
