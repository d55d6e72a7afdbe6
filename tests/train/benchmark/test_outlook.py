"""``guard benchmark FILE --plan``: counted by hand, without images, and with what is done already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import guard
from guard.cli import main
from guard.errors import GuardError
from guard.requests import BenchmarkRequest
from tests.train.benchmark.conftest import yaml_text
from train.benchmark import speeds
from train.benchmark.expected import Outlook
from train.benchmark.network_cost import classifier_cost
from train.benchmark.outlook import outlook

ABSENT: dict[str, Any] = {
    "name": "absent",
    "root": "nowhere",
    "data": {"train": "./train", "test": "./test"},
    "ood": {"far": {"s": "./s", "noise": "gaussian_noise"}},
    "backbones": ["wrn10_2"],
    "epochs": 3,
    "seeds": 2,
    "training": {"image_size": 32, "batch_size": 100, "calibration": 100, "test": 0},
    "methods": {"plain": {}, "oe": {"outliers": "./others", "ratio": 0.5}},
    "scores": ["energy", "msp"],
    "needs": {"images": {"train": {"images": 1100, "classes": 5}, "test": {"images": 200}, "s": {"images": 300}}},
}


def plan(**keys: Any) -> Outlook:
    return outlook(BenchmarkRequest(file={**ABSENT, **keys}))


def test_multiply_adds_are_those_of_the_layers() -> None:
    """A ResNet-18 has 1.8e9 at 224 pixels (He et al., CVPR 2016), and 11.2 million weights with 10 classes."""
    found = classifier_cost("resnet18", "linear", 10, 3, (224, 224))
    assert found.forward == pytest.approx(1.82e9, rel=0.01)
    assert found.parameters == pytest.approx(11.19e6, rel=0.01)
    assert (found.features, found.map_shape) == (512, (512, 7, 7))


def test_steps_and_hours_are_counted() -> None:
    found = plan()
    forward = classifier_cost("wrn10_2", "linear", 5, 3, (32, 32)).forward
    train = {line.method: line for line in found.lines if line.task.kind == "train"}
    assert train["plain"].task.amount == "3 epochs, 30 steps of 100 images"  # 1,100 less 100 held out
    assert train["oe"].task.amount == "3 epochs, 30 steps of 100 images and 50 outliers"
    assert train["plain"].times == 2
    assert train["plain"].task.work == pytest.approx(3000 * 3 * forward)
    assert train["oe"].task.work == pytest.approx(4500 * 3 * forward)
    (measure,) = [line.task for line in found.lines if line.task.kind == "measure" and line.method == "plain"]
    assert measure.amount == "2 scores on 2,600 images"  # 1,100 + 200 + 300 + 1,000 of noise
    hours = 2 * (7500 * 3 + 2 * 2600) * forward / speeds.NETWORKS.per_second / 3600
    assert found.hours() == {"V100": pytest.approx(hours)}


def test_a_pretrained_network_is_trained_for_as_long_as_training_would() -> None:
    kept = {key: value for key, value in ABSENT.items() if key != "epochs"}
    for freeze, epochs in ((False, 10), (True, 30)):
        given = {**ABSENT["training"], "pretrained": True, "freeze": freeze}
        keys = {**kept, "backbones": ["test_resnet"], "methods": {"plain": {}}, "training": given}
        (train,) = [one for one in outlook(BenchmarkRequest(file=keys)).lines if one.task.kind == "train"]
        assert train.task.amount.startswith(f"{epochs} epochs, {10 * epochs} steps")


def test_calls_of_stable_diffusion_are_counted() -> None:
    dream = {"diffusion": {"model": "stable-diffusion", "pipeline": "nobody/no-such-pipeline"}, "store_size": 40}
    found = plan(methods={"dream_ood": {**dream, "encoder": {"epochs": 2}}}, seeds=1)
    made = {line.task.what: line.task for line in found.lines if line.task.kind == "make"}
    assert made["outliers of dream_ood"].work == 40 * 50 * 2
    assert made["outliers of dream_ood"].amount == "40 images of 50 steps: 4,000 calls of Stable Diffusion"
    assert made["encoder wrn16_2"].amount == "2 epochs of 1,000 images"
    assert found.missing[-1] == "nobody/no-such-pipeline"


def test_what_is_missing_is_said_and_nothing_else_is_needed() -> None:
    found = plan()
    assert found.missing == ["train", "test", "s", "./others"]
    assert [one.images for one in found.inputs] == [1100, 200, 300, 1000, None]
    text = str(found)
    assert "missing on this machine: train, test, s, ./others" in text
    assert "unknown" in text
    assert speeds.NETWORKS.origin in text


def test_classes_that_are_left_out_need_not_be_there() -> None:
    choices = [["rose"], ["tulip", "daisy"]]
    for data in ({"train": "./train"}, {"train": "./train", "test": "./test"}):
        training = {"image_size": 32, "batch_size": 100, "calibration": 100, "test": 100 if "test" not in data else 0}
        found = plan(data={**data, "leave_out": choices}, training=training, methods={"plain": {}}, seeds=[0])
        assert found.missing == [Path(there).name for there in data.values()] + ["s"]
        trained = [line.task.work for line in found.lines if line.task.kind == "train"]
        assert len(trained) == 2
        assert trained[0] > trained[1]  # 4 of the 5 classes, and 3
    with pytest.raises(GuardError, match="at least two of"):
        plan(data={"train": "./train", "leave_out": ["a", "b", "c", "d"]})


def test_without_sizes_it_says_what_to_state() -> None:
    with pytest.raises(GuardError, match=r"data.train='./train' is not there, .* give needs: {images: {train:"):
        plan(needs={})


def test_what_a_benchmark_would_refuse_is_refused() -> None:
    with pytest.raises(GuardError, match="has no option 'lrr'"):
        plan(methods={"plain": {"lrr": 1}})
    with pytest.raises(GuardError, match="unknown method of the benchmark 'plian'"):
        plan(only=["plian"])


def test_only_takes_what_a_method_starts_from() -> None:
    found = plan(methods={"plain": {}, "vos": {}, "tuned": {"method": "phase_mix", "init": "plain"}}, only="tuned")
    assert list(dict.fromkeys(line.method for line in found.lines)) == ["plain", "tuned"]


def test_what_is_done_is_not_left(small: dict[str, Any], tmp_path: Path) -> None:
    small |= {"seeds": [0], "out": str(tmp_path), "data": {"train": "digits:0-2", "shifted": {"s": "digits:0-1"}}}
    before = outlook(BenchmarkRequest(file=small))
    assert before.hours(left=True) == before.hours()
    results = guard.benchmark({**small, "only": ["plain"]})
    assert {row["method"] for row in results.rows} == {"plain"}
    assert 0 <= results.rows[0]["accuracies"]["s"] <= 1
    after = outlook(BenchmarkRequest(file=small))
    left = {(line.method, line.task.kind): line.left for line in after.lines}
    assert left[("plain", "train")] == left[("plain", "measure")] == 0
    assert left[("phase_mix", "train")] == left[("phase_mix", "measure")] == 1
    assert after.spent > 0
    other = outlook(BenchmarkRequest(file={**small, "methods": {**small["methods"], "plain": {"lr": 0.01}}}))
    assert {line.left for line in other.lines if (line.method, line.task.kind) == ("plain", "train")} == {1}


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["benchmark", str(path), "--plan", *words])
        assert left.value.code == 0
        return capsys.readouterr().out

    path = tmp_path / "absent.yaml"
    path.write_text(yaml_text(ABSENT))
    assert command().startswith("absent: 4 runs of wrn10_2; seeds 0, 1; into ")
    told = json.loads(command("--json"))
    assert (told["runs"], told["missing"][0], len(told["tasks"])) == (4, "train", 4)
