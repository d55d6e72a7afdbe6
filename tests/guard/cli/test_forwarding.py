"""What the commands forward to the public functions, and the folders they make."""

from __future__ import annotations

import functools
import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guard import api, cli
from guard.benchmark_file import BenchmarkFile
from guard.export_requests import BenchRequest, ExportRequest, VerifyRequest
from guard.requests import (
    BenchmarkRequest,
    CalibrateRequest,
    EvaluateRequest,
    FitRequest,
    ScanRequest,
    SynthRequest,
    TrainRequest,
)
from tests.guard.cli.conftest import Command
from tests.serving.conftest import colour_manifest

REQUESTS = {
    "train": TrainRequest,
    "fit": FitRequest,
    "synth": SynthRequest,
    "export": ExportRequest,
    "verify": VerifyRequest,
    "bench": BenchRequest,
    "calibrate": CalibrateRequest,
    "eval": EvaluateRequest,
    "scan": ScanRequest,
    "benchmark": BenchmarkRequest,
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_argument_of_a_function_can_be_typed(name: str) -> None:
    offered = inspect.signature(cli.COMMANDS[name]).parameters
    assert set(REQUESTS[name].model_fields) <= set(offered)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits"],
        ["fit", "digits", "--model", "resnet18"],
        ["eval", "guard.onnx", "--id", "digits"],
        ["verify", "guard.onnx", "--against", "run", "--data", "digits"],
        ["calibrate", "guard.onnx", "digits"],
        ["export", "run", "guard.onnx"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_not_typed_has_the_default_of_the_function(
    words: list[str], run: Command, calls: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "load", lambda *_, **__: SimpleNamespace(manifest=colour_manifest()))
    name = {"eval": "evaluate"}.get(words[0], words[0])
    run(*words)
    defaults = {n: p.default for n, p in inspect.signature(getattr(api, name)).parameters.items()}
    same = {n: given for n, given in calls[name].items() if defaults[n] is not inspect.Parameter.empty and n != "out"}
    assert len(same) >= 2
    for n, given in same.items():
        assert given == defaults[n] or (given == {} and defaults[n] is None), n


def test_train_forwards_what_was_typed(run: Command, calls: dict[str, dict[str, Any]]) -> None:
    result = run(
        *("train", "cats/", "--method", "vos", "--backbone", "wrn16_2", "--epochs", 15, "--out", "runs/x", "--resume"),
        *("--lr", "0.05", "--seed", 7, "--ood-val", "textures=t.parquet", "--alpha", "0.1", "--calibration", "500"),
        *("--test", "0.2", "--set", "weight=0.2", "--set", "link-init=random", "--set", "start=0.5"),
        *("--head", "arcface", "--head-set", "margin=0.3", "--head-set", "fallback=easy"),
    )
    assert result.code == 0, result.err
    given = calls["train"]
    assert given["data"] == "cats/"
    assert (given["method"], given["backbone"], given["epochs"]) == ("vos", "wrn16_2", 15)
    assert (given["out"], given["resume"]) == (Path("runs/x"), True)
    assert (given["lr"], given["seed"], given["alpha"]) == (0.05, 7, 0.1)
    assert given["ood_val"] == {"textures": "t.parquet"}
    assert (given["calibration"], given["test"]) == (500, 0.2)
    assert given["options"] == {"weight": 0.2, "link_init": "random", "start": 0.5}
    assert (given["head"], given["head_options"]) == ("arcface", {"margin": 0.3, "fallback": "easy"})
    assert calls["export"]["path"] == Path("runs/x/guard.onnx")


def test_fit_forwards_what_was_typed(run: Command, calls: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    run("fit", "cats/", "--model", "resnet18", "--score", "knn", "--features", "avgpool", "--mean", "0.5,0.4,0.3",
        "--std", "0.2,0.2,0.2", "--calibration", "held/", "--name", "cats", "--score-set", "k=5",
        "--no-export", "--class-names", 'cat,"dog, big"')  # fmt: skip
    given = calls["fit"]
    assert (given["model"], given["data"], given["score"], given["features"]) == ("resnet18", "cats/", "knn", "avgpool")
    assert (given["mean"], given["std"]) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (given["calibration"], given["name"], given["score_options"]) == ("held/", "cats", {"k": 5})
    assert given["class_names"] == ["cat", "dog, big"]
    assert "export" not in calls


def test_a_run_without_out_is_named_after_time_and_method_and_becomes_the_latest(
    run: Command, calls: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    first = json.loads(run("train", "digits", "--method", "mim", "--json").out)
    second = json.loads(run("train", "digits", "--method", "mim", "--json").out)
    assert first["run"] != second["run"]  # also within one second
    assert first["run"].startswith("runs/20")
    assert "-mim" in first["run"]
    link = tmp_path / "runs" / "latest"
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == (tmp_path / second["run"]).resolve()
    assert (link / "guard.onnx").exists()


def test_a_run_elsewhere_or_a_real_folder_named_latest_leaves_the_link_alone(
    run: Command, calls: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert run("train", "digits", "--out", tmp_path / "elsewhere").code == 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    assert run("train", "digits").code == 0
    assert not (tmp_path / "runs" / "latest").is_symlink()
    assert sorted(p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith(".")) == []


def test_a_run_that_fails_before_it_wrote_anything_leaves_no_folder(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "absent/folder/of/images")
    assert result.code == 2
    assert "absent/folder/of/images" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_its_checkpoint(
    run: Command, monkeypatch: pytest.MonkeyPatch, calls: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    @functools.wraps(api.train)
    def killed(*_: Any, out: Path, **__: Any) -> None:
        out.mkdir(parents=True)
        (out / "checkpoint.safetensors").write_bytes(b"epoch 7")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", killed)
    assert run("train", "digits", "--out", "runs/a").code == 130
    assert (tmp_path / "runs" / "a" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "runs" / "latest").exists()


def test_the_summary_says_what_was_made(run: Command, calls: dict[str, dict[str, Any]]) -> None:
    text = run("train", "digits", "--out", "runs/a").out
    assert "for 5.0% false alarms (95 % interval 1.7% to 10.1%, from 99 held-out images)" in text
    assert "guard serve runs/a/guard.onnx" in text
    summary = json.loads(run("train", "digits", "--out", "runs/b", "--json").out)
    assert summary["onnx"] == "runs/b/guard.onnx"
    assert summary["false_alarm_interval"] == [0.017, 0.101]


def test_eval_forwards_sets_by_name(run: Command, calls: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "ood").mkdir()
    for name in ("flowers", "mnist"):
        (tmp_path / "ood" / f"{name}.parquet").write_bytes(b"")
    result = run(
        "eval", "g.onnx", "--id", "digits:0-7", "--ood", "near=digits:8-9", "--ood", "ood", "--near", "near", "--json"
    )
    assert json.loads(result.out) == {"accuracy": None}
    given = calls["evaluate"]
    assert given["ood"] == {"near": "digits:8-9", "flowers": "ood/flowers.parquet", "mnist": "ood/mnist.parquet"}
    assert given["near"] == ["near"]


def test_benchmark_forwards_keys_by_their_paths(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    @functools.wraps(api.benchmark)
    def recorded(**named: Any) -> Any:
        given.update(named)
        return SimpleNamespace(folder=Path("runs/b"), rows=[{"score": "knn"}])

    monkeypatch.setattr(api, "benchmark", recorded)
    words = ("--set", "epochs=1", "--set", "data.train=x/", "--set", "seeds=[0, 1]", "--out", "runs/b", "--json")
    result = run("benchmark", "b.yaml", *words)
    assert json.loads(result.out) == {"out": "runs/b", "rows": [{"score": "knn"}]}
    settings = {"epochs": 1, "data": {"train": "x/"}, "seeds": [0, 1]}
    assert given == {"file": "b.yaml", "out": Path("runs/b"), "settings": settings}


def test_the_help_of_benchmark_says_every_key_of_the_file(run: Command) -> None:
    shown = " ".join(run("benchmark", "--help").out.split())
    for name, field in BenchmarkFile.model_fields.items():
        assert f"{name}: {' '.join(str(field.description).split()[:3])}" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--resume"], "--resume needs --out"),
        (["--set", "weight"], "--set takes name=value"),
        (["--set", "epochs=3"], "epochs is not an option of the method or score; use --epochs"),
        (["--set", "batch-size=3"], "use --batch-size"),
        (["--set", "score_options.k=5"], "use --score-set NAME=VALUE"),
        (["--set", "head_options.margin=1"], "use --head-set NAME=VALUE"),
        (["--set", "data=x"], "use the argument DATA"),
        (["--set", "pretrained=w.safetensors"], "use --pretrained, or --weights PATH"),
        (["--set", "a=1", "--set", "a=2"], "--set a was given twice"),
        (["--head-set", "margin"], "--head-set takes name=value, like --head-set weight=0.1, got 'margin'"),
        (["--ood-val", "a=x", "--ood-val", "a=y"], "two sets are named 'a'"),
    ],
)
def test_wrong_options_meet_a_sentence(
    run: Command, calls: dict[str, dict[str, Any]], words: list[str], sentence: str
) -> None:
    result = run("train", "digits", *words)
    assert result.code == 2
    assert sentence in result.err
    assert calls == {}


def test_serve_returns_the_exit_code_of_the_service(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import runner

    given: dict[str, Any] = {}

    def serve(model: Path | None, **options: Any) -> int:
        given.update(model=model, **options)
        return 7

    monkeypatch.setattr(runner, "serve", serve)
    assert run("serve", "g.onnx", "--port", 8080).code == 7
    unset = dict.fromkeys(("workers", "device", "log", "access_log", "keep_flagged"))
    assert given == {"model": Path("g.onnx"), "host": None, "port": 8080, **unset}
    assert run("serve", "g.onnx", "--log", "json", "--access-log", "--keep-flagged", "kept").code == 7
    assert (given["log"], given["access_log"], given["keep_flagged"]) == ("json", True, Path("kept"))
