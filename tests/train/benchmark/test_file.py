"""The YAML file of a benchmark: what it may say, what replaces it, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard.benchmark_file import BenchmarkFile
from guard.cli.arguments import settings
from guard.errors import ConfigError, MissingDataError
from guard.record import nested
from guard.requests import BenchmarkRequest
from train.benchmark.asked import asked_scores
from train.benchmark.file import located, read

ROOT = Path(__file__).parents[3]


def asked(file: Any, **settings: Any) -> Any:
    return read(BenchmarkRequest(file=file, settings=settings))[0]


def test_short_forms_stand_for_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: digits\nood: {far: {n: gaussian_noise}}\nseeds: 3\nmethods:\n  plain:\nscores: knn\n")
    found = asked(path)
    assert (found.data.train, found.data.test) == ("digits", None)
    assert (found.ood.near, found.ood.far) == ({}, {"n": "gaussian_noise"})
    assert (found.seeds, found.methods, found.scores) == ((0, 1, 2), {"plain": {}}, ("knn",))
    assert (found.name, found.out) == ("mine", str(tmp_path / "runs" / "mine"))


def test_keys_are_replaced_where_they_are(small_file: Path) -> None:
    found = asked(small_file, epochs=7, data={"test": "t.csv"}, methods={"phase_mix": {"tune_epochs": 3}, "oe": {}})
    assert (found.epochs, found.data.train, found.data.test) == (7, "digits:0-2", "t.csv")
    assert found.methods == {"plain": {}, "phase_mix": {"init": "plain", "tune_epochs": 3}, "oe": {}}
    assert found.training["image_size"] == 16


def test_a_dash_in_a_name_is_met_by_the_underscore_that_set_makes_of_it(small: dict[str, Any]) -> None:
    small["ood"] = {"near": {"tiny-imagenet": "a", "b-c": "d"}}
    found = asked(small, **settings(["ood.near.tiny-imagenet=z", "ood.near.e-f=g"]))
    assert found.ood.near == {"tiny-imagenet": "z", "b-c": "d", "e_f": "g"}


def test_the_home_folder_may_be_said_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keys = {"data": "digits", "ood": {}, "methods": {"plain": {}}, "root": "~/data", "out": "~/runs"}
    found, folder = read(BenchmarkRequest(file=keys))
    assert (found.out, folder) == (str(tmp_path / "home" / "runs"), tmp_path / "home" / "data")


def test_yaml_merges_mappings(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("data: digits\nood: {}\nmethods:\n  a: &a {method: oe, lr: 1}\n  b: {<<: *a, lr: 2}\n")
    assert asked(path).methods["b"] == {"method": "oe", "lr": 2}


def test_out_of_the_call_wins(small_file: Path, tmp_path: Path) -> None:
    found, folder = read(BenchmarkRequest(file=small_file, out=tmp_path / "elsewhere", settings={"out": "x"}))
    assert (found.out, folder) == (str(tmp_path / "elsewhere"), tmp_path)


def test_a_path_is_looked_up_in_the_folder_and_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "a.parquet").touch()
    assert located("sets/a.parquet", tmp_path) == str(tmp_path / "sets" / "a.parquet")
    assert located("sets/a*", tmp_path) == str(tmp_path / "sets" / "a*")
    for other in ("digits:0-3", "user/name:test", "/nowhere/x", "x" * 5000, [1]):
        assert located(other, tmp_path) == other


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "must hold keys with values"),
        ("data: [", "is not YAML"),
        ("data: digits\ndata: digits:0-3\n", "'data' is given twice"),
        ("methods: {plain: {}, plain: {}}\n", "'plain' is given twice"),
        ("data: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("data: digits\nmethods: {plain: &a {x: *a}}\n", "lies in itself"),
    ],
)
def test_what_is_not_such_a_file_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        asked(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no such file: .*none\.yaml; accepted: a YAML file"):
        asked(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"scroes": []}, "the benchmark has no option 'scroes'; did you mean 'scores'"),
        ({"x": 1}, r"defaults: name='benchmark', root=None, data=\.\.\., ood=\.\.\., backbones"),
        ({"seeds": "many"}, r"seeds must be a number of seeds, or a list .*, got 'many'"),
        ({"seeds": [0, 0]}, r"seeds must be a number of seeds, .* different integers"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"seeds": True}, "seeds must be"),
        ({"seeds": 20261129}, "seeds must be a number of seeds, .*got 20261129"),
        ({"ood": {"neer": {}}}, "the benchmark has no option 'ood.neer'; did you mean 'near'"),
        ({"ood": {"near": "x"}}, "ood.near must map names to images"),
        ({"data": {"trian": "x"}}, "has no option 'data.trian'; did you mean 'train'"),
        ({"data": {"test": "x"}}, "the benchmark needs data.train: Labelled images in any form"),
        ({"methods": ["plain"]}, "methods must map names to arguments"),
        ({"methods": {}}, "methods must map names"),
        ({"epochs": 0}, "option epochs: Input should be greater than or equal to 1, got 0"),
        ({"compare": "openood"}, "option compare: Input should be 'pytorch-ood', got 'openood'"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
    ],
)
def test_wrong_keys_meet_a_sentence(keys: dict[str, Any], sentence: str, small: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=sentence):
        asked({**small, **keys})


def test_a_key_inside_of_a_text_cannot_be_replaced(small: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="name is 'small' in the file, which has no 'x'"):
        asked(small, name={"x": 1})


def test_the_docs_say_every_key_and_their_example_is_taken() -> None:
    import yaml

    text = (ROOT / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    parts = nested(BenchmarkFile)
    for name, field in BenchmarkFile.model_fields.items():
        assert f"| `{name}` | {field.description} |" in text
        for inner, inner_field in parts[name].model_fields.items() if name in parts else ():
            assert f"| `{name}.{inner}` | {inner_field.description} |" in text
    found = asked(yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]))
    assert list(found.methods) == ["plain", "phase_mix", "plain, cosine", "exposed"]


@pytest.mark.parametrize("name", ["transfer_flowers", "transfer_textures"])
def test_the_files_of_pretrained_networks_leave_classes_out(name: str) -> None:
    found = asked(ROOT / "benchmarks" / f"{name}.yaml")
    assert len(found.data.leave_out) == len(found.seeds) == 3
    assert {len(names) for names in found.data.leave_out} == {2 if name == "transfer_flowers" else 3}
    assert found.methods["frozen"]["freeze"]
    assert {"vim", "energy+mahalanobis++"} <= {score.label for score in asked_scores(found.scores)}


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_the_committed_files_are_taken(name: str) -> None:
    found = asked(ROOT / "benchmarks" / f"{name}.yaml")
    assert found.out == str(ROOT / "runs" / name)
    assert {"plain", "phase_mix"} <= set(found.methods)
    labels = [score.label for score in asked_scores(found.scores)]
    assert "energy+vim" in labels
