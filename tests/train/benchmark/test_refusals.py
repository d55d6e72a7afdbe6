"""What a benchmark refuses before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import guard
from guard.errors import GuardError
from tests.train.benchmark.conftest import plan_of


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
            {"scores": ["own", {"name": "msp", "label": "energy+fdbd+multilayer_mahalanobis"}]},
            "two scores of method 'plain' in the benchmark are called 'energy.fdbd.multilayer_mahalanobis'; give one",
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


def test_a_library_that_is_not_there_names_its_extra(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_ood.detector", None)
    with pytest.raises(guard.errors.MissingExtraError, match=r"pip install 'ood-guard\[compare\]'"):
        guard.benchmark({**small, "compare": "pytorch-ood"}, out=tmp_path)
