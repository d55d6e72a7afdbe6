"""The requests say the same as the public functions, and refuse in one sentence what these cannot use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.errors import ConfigError
from guard.export_requests import BenchRequest, ExportRequest, VerifyRequest
from guard.requests import (
    BenchmarkRequest,
    CalibrateRequest,
    EvaluateRequest,
    FitRequest,
    Request,
    ScanRequest,
    SynthRequest,
    TrainRequest,
)

REQUESTS: dict[Callable[..., Any], type[Request]] = {
    guard.bench: BenchRequest,
    guard.benchmark: BenchmarkRequest,
    guard.calibrate: CalibrateRequest,
    guard.evaluate: EvaluateRequest,
    guard.export: ExportRequest,
    guard.fit: FitRequest,
    guard.scan: ScanRequest,
    guard.synth: SynthRequest,
    guard.train: TrainRequest,
    guard.verify: VerifyRequest,
}
NAMED = [pytest.param(function, id=function.__name__) for function in REQUESTS]


@pytest.mark.parametrize("function", NAMED)
def test_names_and_defaults_of_a_function_are_those_of_its_request(function: Callable[..., Any]) -> None:
    request = REQUESTS[function]
    parameters = dict(inspect.signature(function).parameters)
    options = parameters.pop("options", None)
    assert options is None or options.kind is inspect.Parameter.VAR_KEYWORD
    fields = {n: f for n, f in request.model_fields.items() if n != "options"}
    assert set(parameters) == set(fields)
    for name, parameter in parameters.items():
        if fields[name].is_required():
            assert parameter.default is inspect.Parameter.empty, name
        else:  # None stands for the empty mapping, which no signature may hold
            wanted = None if fields[name].default == {} else fields[name].default
            assert (type(parameter.default), parameter.default) == (type(wanted), wanted), name


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("function", NAMED)
def test_no_argument_is_infinite_or_no_number(function: Callable[..., Any], number: float) -> None:
    request = REQUESTS[function]
    given = {name: "x" for name, field in request.model_fields.items() if field.is_required()}
    for name in [name for name, field in request.model_fields.items() if "float" in str(field.annotation)]:
        with pytest.raises(ConfigError, match=name), request.checked():
            request(**{**given, name: number})


@pytest.mark.parametrize("function", NAMED)
def test_a_request_knows_its_function_and_explains_every_field(function: Callable[..., Any]) -> None:
    request = REQUESTS[function]
    assert request.function == f"guard.{function.__name__}"
    for name, field in request.model_fields.items():
        assert (field.description or "").endswith("."), name


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"alpha": "five percent"}, r"alpha must be between 0 and 1 \(.*5 % is 0\.05\), got 'five percent'"),
        ({"alpha": True}, r"alpha must be between 0 and 1 .*, got True"),
        ({"seed": "zero"}, r"seed must be an integer from 0 to 2\^31 - 1, got 'zero'"),
        ({"seed": 2**31}, r"seed must be an integer from 0 to 2\^31 - 1, got 2147483648"),
        ({"epochs": 2.5}, r"guard\.train option epochs: .*integer.*, got 2\.5"),
        ({"epochs": False}, r"guard\.train option epochs: a number is needed, got False"),
        ({"lr": "fast"}, r"guard\.train option lr: .*number.*, got 'fast'"),
        ({"head_options": ["margin"]}, r"head_options takes a mapping such as \{'margin': 0\.3\}, got \['margin'\]"),
        ({"score_options": "k=5"}, r"score_options takes a mapping such as \{'k': 10\}, got 'k=5'"),
        ({"out": 3}, r"guard\.train option out: .*path.*, got 3"),
        ({"method": None}, r"guard\.train option method: .*string, got None"),
        ({"resume": "perhaps"}, r"guard\.train option resume: .*boolean.*, got 'perhaps'"),
    ],
)
def test_a_wrong_type_meets_one_sentence_and_nothing_is_loaded(
    wrong: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guard.api.making.needs", lambda *_: pytest.fail("it began before it complained"))
    with pytest.raises(ConfigError, match=sentence) as caught:
        guard.train("digits", **wrong)
    assert "\n" not in str(caught.value)


def test_what_means_the_same_is_taken() -> None:
    """Text that is a number, numpy's numbers, and paths as text."""
    asked = TrainRequest(data="digits", alpha="0.05", epochs=np.int64(3), lr=np.float32(0.5), out="runs/a", seed="7")
    assert (asked.alpha, asked.epochs, asked.lr, asked.out, asked.seed) == (0.05, 3, 0.5, Path("runs/a"), 7)


def test_a_request_passes_data_on_untouched() -> None:
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)
    assert TrainRequest(data=(images, labels)).data[0] is images
    assert VerifyRequest(path="a", against="b", data=images).data is images


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 50}, r"k is an option of score 'knn': give score_options=\{'k': \.\.\.\} \(--score-set k=\.\.\.\)"),
        ({"scor": "vim"}, r"guard\.fit has no argument 'scor'; did you mean 'score"),
        ({"weight": 1}, r"guard\.fit has no argument 'weight'.*score_options=\{\.\.\.\}"),
    ],
)
def test_flat_options_of_fit_are_refused_with_the_new_spelling(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        guard.fit("resnet18", "digits", score="knn", **options)


def test_flat_options_of_combined_scores_are_those_of_the_combination() -> None:
    with pytest.raises(ConfigError, match=r"rule is an option of score 'energy\+vim': give score_options=\{'rule'"):
        guard.fit("resnet18", "digits", score="energy+vim", rule="tippett")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: guard.synth("digits", method="strokes", out="s", count=0), "count must be a number of images"),
        (lambda: guard.synth("digits", method="strokes", out="s", match=3), "match: .*, got 3"),
        (lambda: guard.verify("a.onnx", against="b", data="digits", batch_size=0), "batch_size must be at least 1"),
        (lambda: guard.export("run", "a.onnx", max_flag_flips=-1), "guard.export option max_flag_flips: .* 0, got -1"),
        (lambda: guard.calibrate("a.onnx", "digits", alpha="low"), "alpha must be between 0 and 1 .*, got 'low'"),
        (lambda: guard.evaluate("a.onnx", id="digits", ood={1: "x"}), "ood must map names to images"),
    ],
)
def test_the_other_functions_refuse_in_one_sentence_too(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()


SOME: dict[str, Any] = {"model": None, "data": None}


@pytest.mark.parametrize("alpha", ["0.05", np.float64(0.05), np.array(0.05), 0.05])
@pytest.mark.parametrize("size", ["64", np.int64(64), np.array(64), 64.0])
def test_numbers_of_any_kind_are_numbers(alpha: Any, size: Any) -> None:
    request = FitRequest(**SOME, alpha=alpha, batch_size=size, seed=size, calibration=size, image_size=size)
    assert request.alpha == 0.05
    assert (request.batch_size, request.seed, request.calibration, request.image_size) == (64, 64, 64, 64)


def test_numbers_of_torch_are_numbers_and_a_device_is_its_name() -> None:
    torch = pytest.importorskip("torch")
    request = FitRequest(
        **SOME, alpha=torch.tensor(0.5), batch_size=torch.tensor(7), test=torch.tensor(9), device=torch.device("cpu")
    )
    assert (request.alpha, request.batch_size, request.test, request.device) == (0.5, 7, 9, "cpu")


def test_an_amount_as_text_is_a_number_unless_a_folder_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert FitRequest(**SOME, calibration="0.25", test="30").test == 30
    assert FitRequest(**SOME, calibration="0.25").calibration == 0.25
    (tmp_path / "30").mkdir()
    assert FitRequest(**SOME, test="30").test == "30"


IMPOSSIBLE = ["x" * 3_000_000, "a\0b", Path("y" * 5000)]


@pytest.mark.parametrize("path", [*IMPOSSIBLE, 5, None, b"x", ["a"]], ids=lambda path: repr(path)[:8])
def test_what_is_no_path_is_one_sentence(path: Any) -> None:
    """Functions that take the path of a guard."""
    calls: list[Callable[[], Any]] = [
        lambda: guard.load(path),
        lambda: guard.export(path, "a.onnx"),
        lambda: guard.export("run", path),
        lambda: guard.evaluate(path, id="digits"),
        lambda: guard.calibrate(path, "digits"),
    ]
    for call in calls:
        with pytest.raises(guard.errors.GuardError) as caught:
            call()
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("path", IMPOSSIBLE, ids=["long", "nul", "long path"])
@pytest.mark.parametrize("name", ["model", "data", "out", "name", "features", "device", "score", "class_names"])
def test_text_that_can_be_no_name_is_refused(name: str, path: Any) -> None:
    with pytest.raises(ConfigError, match=f"guard.fit option {name}") as caught, FitRequest.checked():
        FitRequest(**{**SOME, name: path})
    assert len(str(caught.value)) < 300
