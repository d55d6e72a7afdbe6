"""`guard verify` against a running service: it decides as the file that it serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import guard
from guard import cli
from guard.errors import ConfigError, ParityError, ServiceUnreachableError
from serving.runner import running_service


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Single colours of the size that the guard takes, and noise."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 1, 1, 3)).repeat(8, 1).repeat(8, 2)
    return np.concatenate([colours, rng.integers(0, 256, (10, 8, 8, 3))]).astype(np.uint8)


def test_a_service_decides_as_its_file(service: str, colour_guard: Path, images: np.ndarray) -> None:
    report = guard.verify(service, against=colour_guard, data=images)
    assert report.images == len(images)
    assert report.flag_flips == 0
    assert report.max_score_difference < 1e-5
    assert report.max_probability_difference < 1e-6
    assert report.runtime == f"service ({service})"
    assert 0 < report.false_alarm_rate[1] < 1  # both decisions were seen
    assert report.false_alarm_rate[0] == report.false_alarm_rate[1]


def test_a_file_with_another_threshold_is_told_apart(
    service: str, colour_guard: Path, images: np.ndarray, tmp_path: Path
) -> None:
    other = guard.calibrate(colour_guard, list(images), alpha=0.9, out=tmp_path / "other.onnx")
    assert other.threshold != guard.load(colour_guard).threshold
    with pytest.raises(
        ParityError, match=r"of 30 images change their label or flag between onnxruntime .* and service"
    ):
        guard.verify(service, against=tmp_path / "other.onnx", data=images)


def test_a_guard_among_several_is_named_in_the_address(
    colour_guard: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.onnx"
    guard.calibrate(colour_guard, list(images), alpha=0.9, out=other)
    monkeypatch.setenv("GUARD_MODELS", f"pets={colour_guard},cars={other}")
    with running_service() as base:
        assert guard.verify(base, against=colour_guard, data=images).flag_flips == 0
        assert guard.verify(f"{base}?model=cars", against=other, data=images).flag_flips == 0
        with pytest.raises(ParityError, match="change their label or flag"):
            guard.verify(f"{base}?model=cars", against=colour_guard, data=images)


def test_with_a_token_and_on_the_command_line(
    colour_guard: Path, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, image in enumerate(images):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    with running_service(colour_guard, env={"GUARD_TOKEN": "secret"}) as base:
        words = ["verify", base, "--against", str(colour_guard), "--data", str(tmp_path / "images")]
        with pytest.raises(SystemExit) as refused:
            cli.main(words)
        assert refused.value.code == 2
        assert "refused the request (401)" in capsys.readouterr().err
        cli_words = [*words, "--token", "secret"]
        with pytest.raises(SystemExit) as done:
            cli.main(cli_words)
        assert not done.value.code
        assert "flag flips        0" in capsys.readouterr().out


def test_nobody_there_is_said(colour_guard: Path, images: np.ndarray) -> None:
    with pytest.raises(ServiceUnreachableError, match="is the service running there"):
        guard.verify("http://127.0.0.1:9", against=colour_guard, data=images[:1])
    with pytest.raises(ConfigError, match=r"http://HOST:PORT\?model=NAME, got 'http://127.0.0.1:9\?x=1'"):
        guard.verify("http://127.0.0.1:9?x=1", against=colour_guard, data=images[:1])
