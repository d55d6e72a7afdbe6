"""What a benchmark runs, in which order and under which identity; and what it refuses before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from guard.data.held_out import Draw
from guard.errors import GuardError
from guard.requests import BenchmarkRequest
from train.benchmark.card import CARD, Card
from train.benchmark.file import read
from train.benchmark.plan import Plan, plain, train_request
from train.benchmark.planning import planned
from train.benchmark.sets import SOURCE, open_sets
from train.benchmark.state import state_of
from train.benchmark.training import _make_stores
from train.cache.keyed import digest
from train.runs.synth import divided


def plan_of(keys: dict[str, Any], out: Path | None = None) -> Plan:
    asked, folder = read(BenchmarkRequest(file=keys, out=out))
    request = train_request(asked, "wrn10_2", {"method": "plain", **asked.training}, seed=0)
    return planned(asked, folder, open_sets(asked, folder, request))


def identities(keys: dict[str, Any]) -> dict[str, str]:
    plan = plan_of(keys)
    return {run.place: plan.identity(run) for run in plan.runs}


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
    assert labels["plain"] == ["vim", "energy+vim", "knn"]
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


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"methods": {"vso": {}}}, "unknown method 'vso'; did you mean 'vos'"),
        ({"methods": {"a": {"method": "plain", "epohcs": 3}}}, "method 'plain' has no option 'epohcs'"),
        ({"methods": {"plain": {"seed": 3}}}, "method 'plain' of the benchmark: seed is said by the key 'seeds'"),
        ({"training": {"seed": 3}}, "the key 'training' of the benchmark: seed is said by the key 'seeds'"),
        ({"training": {"test": 0}}, "test: 0 holds out no images to measure on"),
        ({"training": {"test": 10000}}, r"method 'plain' of the benchmark, test: 10000, seed 0: .* cannot be held out"),
        (
            {"methods": {"plain": {}, "b": {"method": "plain", "calibration": 10}}},
            "method 'b' of the benchmark, calibration: 10, test: 60, seed 0: alpha=0.05 needs at least 19 .* got 10",
        ),
        ({"methods": {"b": {"method": "plain", "test": -1}}}, "method 'b' of the .* test must be a number of images"),
        ({"training": {"calibration": 0.9, "test": 0.5}}, "calibration: 0.9, test: 0.5, seed 0: .* cannot be held out"),
        (
            {"methods": {"plain": {}, "bigger test": {"method": "plain", "test": 0.3}}},
            "method 'bigger test' of the benchmark holds out test=0.3, method 'plain' test=60: .* say test",
        ),
        ({"training": {"test": "t.csv"}}, "test of the benchmark's trainings is a count or a share"),
        ({"methods": {"phase_mix": {"init": "plian"}, "plain": {}}}, "unknown method of the benchmark 'plian'"),
        ({"methods": {"a": {"method": "plain", "init": "b"}, "b": {"method": "plain", "init": "a"}}}, "each other"),
        ({"methods": {"oe": {}}}, "method 'oe' learns from outlier images"),
        ({"methods": {"oe": {"outliers": "no/such.parquet"}}}, r"no/such\.parquet"),
        ({"methods": {"oe": {"outliers": "store:x"}}}, "unknown store of the benchmark 'x'"),
        ({"methods": {"a/b": {"method": "plain"}, "a-b": {"method": "plain"}}}, "would lie in wrn10_2/a-b-s0"),
        ({"methods": {"plain ": {"method": "plain"}}}, "method 'plain ' of the benchmark: a name is not empty"),
        ({"methods": {"a\nb": {"method": "plain"}}}, "without line breaks"),
        (
            {"methods": {"plain": {"image_size": 8}}},
            "method 'plain' of the benchmark: image_size is said under training",
        ),
        (
            {"stores": {"x": {"method": "patch_mix", "in_chans": 1}}},
            "store 'x' of the benchmark: in_chans is said under",
        ),
        ({"ood": {"far": {"": "letters"}}}, "OOD set '' of the benchmark: a name is not empty"),
        ({"ood": {"far": {" source": "letters"}}}, "OOD set ' source' of the benchmark"),
        ({"ood": {"far": {"near": "letters"}}}, "the mean of all such sets is called that"),
        ({"methods": {"plain": {"scores": None}}}, "scores of method 'plain' of the benchmark must be a list"),
        ({"methods": {"plain": {"scores": []}}}, "scores of method 'plain' of the benchmark must be a list"),
        ({"methods": {"plain": {"scores": 5}}}, "scores of method 'plain' .* got 5"),
        ({"methods": {"oe": {"outliers": {"patch_mix": -1}}}}, "the weight of outliers 'patch_mix' must be a number"),
        ({"methods": {"oe": {"outliers": {}}}}, "outliers= is empty"),
        ({"stores": {"x": {"method": "patch_mix", "seed": 3}}}, "store 'x' of the benchmark: seed is said by the"),
        (
            {"stores": {"x y": {"method": "patch_mix"}, "x-y": {"method": "patch_mix"}}},
            "two stores of the benchmark would lie in x-y",
        ),
        (
            {
                "stores": {"x": {"method": "patch_mix"}},
                "methods": {"oe": {"outliers": "store:x", "test": 30}},
            },
            r"method 'oe' of the benchmark holds out {'calibration': 60, 'test': 30}, store 'x' .*'test': 60}: its",
        ),
        ({"ood": {"far": {"x": "~nobody-of-that-name/x"}}}, "~nobody-of-that-name"),
        ({"stores": {"x": {"count": 3}}}, "store 'x' of the benchmark needs a method"),
        ({"heads": ["cosnie"]}, "unknown head 'cosnie'"),
        (
            {"heads": ["cosine"], "methods": {"cmg_s": {}}},
            "score 'reject_class' reads the extra class of head='c_plus_1'; head='cosine' has none",
        ),
        ({"backbones": ["wrn99"]}, "wrn99"),
        ({"scores": ["knm"]}, "unknown score 'knm'; did you mean 'knn'"),
        ({"scores": [{"name": "knn", "kk": 3}]}, "score 'knn' has no option 'kk'"),
        ({"scores": [{"k": 3}]}, "a score of the benchmark is a name, or a mapping like"),
        (
            {"scores": ["own", {"name": "own", "temperature": 5}]},
            "the score own of the benchmark is the method's, .*got",
        ),
        (
            {"scores": ["own", {"name": "msp", "label": "vim"}]},
            "two scores of method 'plain' in the benchmark are called 'vim'; give one a label",
        ),
        ({"scores": ["knn", "knn"]}, "two scores of the benchmark are called 'knn'"),
        ({"scores": ["rejection"]}, "score 'rejection' is learned by method 'rejection', not by 'plain'"),
        ({"scores": ["reject_class"]}, "score 'reject_class' needs an extra class for outliers"),
        ({"baseline": "plian"}, "unknown method of the benchmark 'plian'; did you mean 'plain'"),
        ({"ood": {}}, "the benchmark has no OOD sets"),
        ({"ood": {"near": {"a": "letters"}, "far": {"a": "letters"}}}, "two OOD sets of the benchmark are called 'a'"),
        ({"ood": {"far": {"a": "ood/none.parquet"}}}, "ood/none.parquet.* relative paths are looked up in"),
        ({"data": {"train": "digits:0-2", "test": "digits:5-6"}}, "5"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    keys: dict[str, Any], sentence: str, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.benchmark.training.train", lambda _: pytest.fail("it trained"))
    with pytest.raises(GuardError, match=sentence):
        guard.benchmark({**small, **keys}, out=tmp_path / "out")


def test_the_same_test_images_may_be_said_otherwise(small: dict[str, Any]) -> None:
    small["methods"]["more"] = {"method": "plain", "calibration": 70, "test": 60}
    assert len(plan_of(small).runs) == 6
    small |= {"data": {"train": "digits:0-2", "test": "digits:0-2"}}
    small["methods"]["more"]["test"] = 30  # the test images are others, the same for all
    assert len(plan_of(small).runs) == 6


@pytest.mark.parametrize("name", ["results.csv", "results.md", "report.html", "published.csv"])
def test_a_folder_with_somebody_s_files_is_refused(
    name: str, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.benchmark.benchmark.open_sets", lambda *_: pytest.fail("it opened the images"))
    (tmp_path / name).write_text("mine")
    with pytest.raises(GuardError, match=f"holds {name} and no results.json"):
        guard.benchmark(small, out=tmp_path)
    assert (tmp_path / name).read_text() == "mine"


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


def test_a_library_that_is_not_there_names_its_extra(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_ood.detector", None)
    with pytest.raises(guard.errors.MissingExtraError, match=r"pip install 'ood-guard\[compare\]'"):
        guard.benchmark({**small, "compare": "pytorch-ood"}, out=tmp_path)
