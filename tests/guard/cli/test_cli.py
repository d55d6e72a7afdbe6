"""The command line: what it forwards, what it prints, and what a mistake meets."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import guard
from guard import api, cli
from guard.artefact.files import write_onnx
from guard.cli import arguments, asking, calibrating, making, output, running
from guard.errors import ConfigError, MissingDataError
from tests.serving.conftest import colour_graph, colour_manifest, expected_score

ROOT = Path(__file__).parents[2]
Result = SimpleNamespace
Guard = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Guard]:
    """run("predict", ...) -> Result(code, out, err), in this process."""

    def call(*words: object) -> Result:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Result(code=end.value.code or 0, out=out, err=err)

    yield call
    logging.getLogger("ood_guard").handlers.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "colours.onnx"
    write_onnx(path, colour_graph(), colour_manifest())
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: red.png and deep/blue.jpg are in-distribution, black.png is not; notes.txt is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "deep" / "blue.jpg", quality=100)
    Image.new("RGB", (8, 8), (0, 0, 0)).save(folder / "black.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


# ----------------------------------------------------------------------------------------------------- the command


def test_version_and_help(run: Guard) -> None:
    assert run("--version").out == f"ood-guard {guard.__version__}\n"
    shown = run("--help").out
    for command in (
        "train",
        "fit",
        "eval",
        "export",
        "verify",
        "predict",
        "serve",
        "demo",
        "methods",
        "heads",
        "scores",
    ):
        assert command in shown


def test_python_m_guard_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "guard", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"ood-guard {guard.__version__}\n")


def test_an_unknown_command_exits_with_2_and_names_a_near_one(run: Guard) -> None:
    result = run("trian")
    assert result.code == 2
    assert "Did you mean 'train'" in result.err


@pytest.mark.parametrize("group", [making, calibrating, asking, running])
def test_every_command_takes_debug_and_explains_its_options(group: Any) -> None:
    for function in group.COMMANDS.values():
        hints = inspect.get_annotations(function, eval_str=True)
        assert hints["debug"] is arguments.Debug
        for name, hint in hints.items():
            assert name == "return" or hint.__metadata__[0].help, f"{function.__name__} {name} has no help"


def test_an_error_is_one_line_on_stderr_and_exit_code_2(run: Guard, tmp_path: Path) -> None:
    result = run("predict", tmp_path / "absent.onnx", "x.png")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: no such guard: {tmp_path / 'absent.onnx'}; ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("before", [True, False], ids=["guard --debug predict", "guard predict --debug"])
def test_debug_shows_the_traceback(run: Guard, before: bool) -> None:
    words = ["predict", "absent.onnx", "x.png"]
    result = run(*(["--debug", *words] if before else [*words, "--debug"]))
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert "ArtefactNotFoundError: no such guard" in result.err


def test_an_interrupt_exits_with_130(run: Guard, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load", interrupted)
    result = run("predict", model, "x.png")
    assert result.code == 130
    assert "Traceback" not in result.err


# --------------------------------------------------------------------------------------------------------- predict


def test_predict_prints_json_that_agrees_with_the_formula(run: Guard, model: Path, images: Path) -> None:
    result = run("predict", model, images / "red.png", images / "black.png", "--json")
    red, black = json.loads(result.out)
    assert result.code == 0
    assert red["image"] == str(images / "red.png")
    assert (red["class_name"], red["is_ood"], black["is_ood"]) == ("red", False, True)
    assert red["ood_score"] == pytest.approx(expected_score((255, 0, 0)), abs=1e-5)
    assert black["ood_score"] == pytest.approx(-np.log(3), abs=1e-5)
    assert 0 < black["p_value"] < red["p_value"] <= 1


def test_predict_takes_a_folder_and_prints_a_table(run: Guard, model: Path, images: Path) -> None:
    result = run("predict", model, images)
    rows = [line.split() for line in result.out.splitlines()]
    assert result.code == 0
    assert rows[0] == ["image", "label", "probability", "ood_score", "p", "flag"]
    assert [row[0] for row in rows[1:4]] == [str(images / n) for n in ("black.png", "deep/blue.jpg", "red.png")]
    assert [row[-1] == "OOD" for row in rows[1:4]] == [True, False, False]
    assert " ".join(rows[4]).startswith("1 of 3 flagged (ood_score > -4) by colours@")


def test_output_that_is_not_for_a_terminal_has_no_colour_codes_and_no_cut_paths(
    run: Guard, model: Path, images: Path
) -> None:
    result = run("predict", model, images)
    assert "\x1b" not in result.out
    assert "…" not in result.out
    assert str(images / "deep" / "blue.jpg") in result.out


def test_a_name_in_brackets_is_not_markup(run: Guard, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "[red] :cat:.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    assert str(path) in run("predict", model, path).out


def test_predict_with_another_threshold(run: Guard, model: Path, images: Path) -> None:
    answers = json.loads(run("predict", model, images, "--threshold", "-20", "--json").out)
    assert [a["is_ood"] for a in answers] == [True, True, True]
    assert {a["threshold"] for a in answers} == {-20.0}


def test_an_uncalibrated_guard_prints_null_and_not_infinity(run: Guard, tmp_path: Path, images: Path) -> None:
    path = tmp_path / "guard.onnx"
    write_onnx(path, colour_graph(), colour_manifest(calibrated=False))
    text = run("predict", path, images / "red.png", "--json").out
    (answer,) = json.loads(text, parse_constant=pytest.fail)
    assert answer["threshold"] is None
    assert answer["p_value"] is None


def test_a_file_that_is_no_image_is_named_and_the_others_are_answered(run: Guard, model: Path, images: Path) -> None:
    result = run("predict", model, images / "notes.txt", images / "red.png", "--json")
    assert result.code == 2
    assert [a["class_name"] for a in json.loads(result.out)] == ["red"]
    assert result.err.startswith(f"error: {images / 'notes.txt'}: not an image")
    assert result.err.count("\n") == 1


def test_predict_on_more_images_than_a_batch_keeps_their_order(run: Guard, model: Path, tmp_path: Path) -> None:
    for level in range(150):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / f"{level:03d}.png")
    answers = json.loads(run("predict", model, tmp_path, "--json").out)
    assert [Path(a["image"]).stem for a in answers] == [f"{level:03d}" for level in range(150)]
    expected = [expected_score((level, 0, 0)) for level in range(150)]
    np.testing.assert_allclose([a["ood_score"] for a in answers], expected, atol=1e-5)


def test_a_missing_image_and_a_folder_without_images_are_named(run: Guard, model: Path, tmp_path: Path) -> None:
    assert "error: no such image: absent.png" in run("predict", model, "absent.png").err
    (tmp_path / "notes.txt").write_text("x")
    assert f"error: no image files in {tmp_path}; looked for" in run("predict", model, tmp_path).err


# ------------------------------------------------------------------------------------------------ methods and scores


def test_methods_lists_every_method_with_a_line(run: Guard) -> None:
    listed = json.loads(run("methods", "--json").out)
    assert [m["name"] for m in listed] == guard.list_methods()
    assert all(m["summary"] for m in listed)
    assert "vos" in run("methods").out


def test_a_pattern_filters(run: Guard) -> None:
    assert [m["name"] for m in json.loads(run("methods", "*o*", "--json").out)] == guard.list_methods("*o*")
    assert [s["name"] for s in json.loads(run("scores", "m*", "--json").out)] == guard.list_scores("m*")
    assert [h["name"] for h in json.loads(run("heads", "*face", "--json").out)] == ["arcface", "cosface", "sphereface"]


def test_scores_prints_what_each_needs_and_whether_a_model_can_have_it(run: Guard) -> None:
    lines = run("scores", "[vo]*").out.splitlines()  # odin, vim
    assert lines[0].split() == ["score", "ood_score", "needs", "fit", "exports"]
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == ["odin", "vim"]
    (vim,) = json.loads(run("scores", "vim", "--model", "resnet18", "--json").out)
    assert (vim["applies"], vim["why_not"], vim["exports"]) == (True, "", True)
    assert vim["needs"] == ["logits", "features", "weights"]
    shown = run("scores", "rejection", "--model", "resnet18").out
    assert "no: is learned in training; use guard.train(..., method='rejection')" in " ".join(shown.split())
    assert "did you mean 'vim'" in run("scores", "vimm", "--model", "resnet18").err


def test_a_name_shows_the_options_with_their_defaults(run: Guard) -> None:
    from train.methods import get_method

    card = json.loads(run("methods", "vos", "--json").out)
    defaults = {name: field.default for name, field in get_method("vos").Options.model_fields.items()}
    assert {name: option["default"] for name, option in card["options"].items()} == defaults
    shown = run("methods", "vos").out
    assert all(name in shown for name in defaults)
    assert json.loads(run("scores", "knn", "--json").out)["options"]["k"]["default"] == 50
    assert "no options" in run("scores", "max_logit").out
    assert json.loads(run("heads", "arcface", "--json").out)["options"]["margin"]["default"] == 0.5
    assert "--head-set" in run("heads", "arcface").out


def test_types_are_shown_without_their_limits(run: Guard) -> None:
    assert "tuple[float, ...]" in run("methods", "dream_ood").out


@pytest.mark.parametrize(
    ("command", "typo", "near"),
    [("methods", "voss", "vos"), ("scores", "enrgy", "energy"), ("heads", "cosin", "cosine")],
)
def test_an_unknown_name_shows_near_matches(run: Guard, command: str, typo: str, near: str) -> None:
    result = run(command, typo)
    assert result.code == 2
    assert f"{typo!r}; did you mean {near!r}" in result.err


# ------------------------------------------------------------------------------- what is forwarded to the functions


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Replaces the public functions by recorders with the same signatures; the working directory is a fresh one."""
    recorded: dict[str, dict[str, Any]] = {}
    made = SimpleNamespace(manifest=colour_manifest())

    def record(name: str, answer: Callable[..., Any]) -> None:
        original = getattr(api, name)

        @functools.wraps(original)
        def fake(*positional: Any, **named: Any) -> Any:
            bound = inspect.signature(original).bind(*positional, **named)
            recorded[name] = dict(bound.arguments)
            return answer(**bound.arguments)

        monkeypatch.setattr(api, name, fake)

    def make(out: Path, **_: Any) -> Any:
        Path(out).mkdir(parents=True, exist_ok=True)
        return made

    def written(path: Path, **_: Any) -> Path:
        Path(path).write_bytes(b"onnx")
        return Path(path)

    record("train", make)
    record("fit", make)
    record("export", written)
    record("calibrate", lambda **_: made)
    record("verify", lambda **_: colour_manifest().preprocess)
    record("evaluate", lambda **_: SimpleNamespace(to_dict=lambda: {"accuracy": float("nan")}, __str__=str))
    monkeypatch.chdir(tmp_path)
    return recorded


def test_train_and_fit_offer_every_argument_of_the_functions() -> None:
    for function, command, elsewhere in (
        (api.train, making.train, set()),
        (api.fit, making.fit, {"class_names", "options"}),
    ):
        wanted = set(inspect.signature(function).parameters) - elsewhere
        assert wanted <= set(inspect.signature(command).parameters)


def test_commands_repeat_the_defaults_of_the_functions(
    run: Guard, calls: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "digits")
    run("fit", "digits", "--model", "resnet18")
    run("eval", "guard.onnx", "--id", "digits")
    run("verify", "guard.onnx", "--against", "run", "--data", "digits")
    monkeypatch.setattr(api, "load", lambda *_, **__: SimpleNamespace(manifest=colour_manifest()))
    run("calibrate", "guard.onnx", "digits")
    for name in ("train", "fit", "evaluate", "verify", "calibrate"):
        defaults = arguments.defaults(getattr(api, name))
        different = {k: v for k, v in calls[name].items() if k in defaults and v != defaults[k] and k != "out"}
        assert different in ({}, {"ood": {}}), name


def test_train_forwards_what_was_typed(run: Guard, calls: dict[str, dict[str, Any]]) -> None:
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


def test_fit_forwards_what_was_typed(run: Guard, calls: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    run("fit", "cats/", "--model", "resnet18", "--score", "knn", "--features", "avgpool", "--mean", "0.5,0.4,0.3",
        "--std", "0.2,0.2,0.2", "--calibration", "held/", "--name", "cats", "--score-set", "k=5",
        "--no-export")  # fmt: skip
    given = calls["fit"]
    assert (given["model"], given["data"], given["score"], given["features"]) == ("resnet18", "cats/", "knn", "avgpool")
    assert (given["mean"], given["std"]) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (given["calibration"], given["name"], given["score_options"]) == ("held/", "cats", {"k": 5})
    assert "export" not in calls


def test_a_run_without_out_is_named_after_time_and_method_and_becomes_the_latest(
    run: Guard, calls: dict[str, dict[str, Any]], tmp_path: Path
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
    run: Guard, calls: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert run("train", "digits", "--out", tmp_path / "elsewhere").code == 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    assert run("train", "digits").code == 0
    assert not (tmp_path / "runs" / "latest").is_symlink()
    assert sorted(p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith(".")) == []


def test_a_run_that_fails_before_it_wrote_anything_leaves_no_folder(
    run: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "absent/folder/of/images")
    assert result.code == 2
    assert "absent/folder/of/images" in result.err
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_failed_run_keeps_its_checkpoint(
    run: Guard, monkeypatch: pytest.MonkeyPatch, calls: dict[str, dict[str, Any]], tmp_path: Path
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


def test_the_summary_says_what_was_made(run: Guard, calls: dict[str, dict[str, Any]]) -> None:
    text = run("train", "digits", "--out", "runs/a").out
    assert "for 5.0% false alarms (95 % interval 1.7% to 10.1%, from 99 held-out images)" in text
    assert "guard serve runs/a/guard.onnx" in text
    summary = json.loads(run("train", "digits", "--out", "runs/b", "--json").out)
    assert summary["onnx"] == "runs/b/guard.onnx"
    assert summary["false_alarm_interval"] == [0.017, 0.101]


def test_eval_forwards_sets_by_name(run: Guard, calls: dict[str, dict[str, Any]], tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--resume"], "--resume needs --out"),
        (["--set", "weight"], "--set takes name=value"),
        (["--set", "epochs=3"], "epochs is no option of the method or score; use --epochs"),
        (["--set", "batch-size=3"], "use --batch-size"),
        (["--set", "a=1", "--set", "a=2"], "--set a was given twice"),
        (["--head-set", "margin"], "--head-set takes name=value, like --head-set weight=0.1, got 'margin'"),
        (["--ood-val", "a=x", "--ood-val", "a=y"], "two sets are named 'a'"),
    ],
)
def test_wrong_options_meet_a_sentence(
    run: Guard, calls: dict[str, dict[str, Any]], words: list[str], sentence: str
) -> None:
    result = run("train", "digits", *words)
    assert result.code == 2
    assert sentence in result.err
    assert calls == {}


def test_serve_returns_the_exit_code_of_the_service(run: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import runner

    given: dict[str, Any] = {}

    def serve(model: Path | None, **options: Any) -> int:
        given.update(model=model, **options)
        return 7

    monkeypatch.setattr(runner, "serve", serve)
    assert run("serve", "g.onnx", "--port", 8080).code == 7
    assert given == {"model": Path("g.onnx"), "host": "127.0.0.1", "port": 8080, "workers": None, "device": None}


# ----------------------------------------------------------------------------------------------- text -> values


def test_values_are_json_or_text() -> None:
    texts = ("0.1", "3", "true", "null", "[1, 2]", "paper", "1e-3", "a=b")
    assert [arguments.value(t) for t in texts] == [0.1, 3, True, None, [1, 2], "paper", 1e-3, "a=b"]


def test_numbers_are_separated_by_commas() -> None:
    assert arguments.numbers("0.5, 1,2") == (0.5, 1.0, 2.0)
    assert arguments.numbers(None) is None
    with pytest.raises(ConfigError, match=r"like 0\.5,0\.5,0\.5, got 'half'"):
        arguments.numbers("half")


def test_plain_paths_are_named_after_their_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "textures" / "class").mkdir(parents=True)
    (tmp_path / "mnist.parquet").write_bytes(b"")
    sets = arguments.named_sets(
        [f"{tmp_path}/textures", f"{tmp_path}/mnist.parquet", "digits:8-9", f"x={tmp_path}/a=b"]
    )
    assert sets == {
        "textures": f"{tmp_path}/textures",
        "mnist": f"{tmp_path}/mnist.parquet",
        "digits:8-9": "digits:8-9",
        "x": f"{tmp_path}/a=b",
    }
    with pytest.raises(MissingDataError, match="no such file or folder"):
        arguments.named_sets([f"{tmp_path}/absent"])


def test_plain_makes_json_of_everything() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": Path("x"),
        "d": (float("inf"), None),
        1: colour_manifest().head,
    }
    assert json.loads(json.dumps(output.plain(value))) == {
        "a": 0.5,
        "b": [0, 1],
        "c": "x",
        "d": [None, None],
        "1": "linear",
    }


# ----------------------------------------------------------------------------------------------- the real thing


def test_train_predict_export_verify_on_digits(tmp_path: Path) -> None:
    """One small run through the real functions, as a user types it, in a folder of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "guard", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done.stdout

    size = ("--image-size", "8", "--epochs", "1", "--batch-size", "128")
    summary = json.loads(command("train", "digits", "--method", "plain", *size, "--json"))
    assert Path(tmp_path, summary["run"], "metrics.jsonl").exists()
    assert summary["calibration_images"] >= 400
    Image.effect_noise((8, 8), 200).save(tmp_path / "noise.png")
    (answer,) = json.loads(command("predict", "runs/latest/guard.onnx", "noise.png", "--json"))
    assert answer["threshold"] == pytest.approx(summary["threshold"])
    command("export", "runs/latest", "again.onnx", "--data", "digits")
    report = json.loads(command("verify", "again.onnx", "--against", "runs/latest", "--data", "digits", "--json"))
    assert report["flag_flips"] == 0
    assert report["images"] == 1797
