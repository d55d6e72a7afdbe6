from __future__ import annotations

import os
from pathlib import Path

import pytest

from guard.errors import ArtefactNotFoundError, ConfigError
from serving import runner
from serving.control import Control
from serving.settings import Settings, paths_environment, read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("GUARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_settings_come_from_the_environment_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_MAX_BYTES", "1234")
    monkeypatch.setenv("GUARD_WORKERS", "3")
    settings = read_settings(workers=2, device=None)
    assert (settings.max_bytes, settings.workers, settings.device) == (1234, 2, "auto")
    assert settings.host == "127.0.0.1"


def test_every_setting_is_documented() -> None:
    documented = Settings.__doc__ or ""
    assert [name for name in Settings.model_fields if f"\n        {name}: " not in documented] == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GUARD_MAX_BYTES", "many", "GUARD_MAX_BYTES=many is not accepted: Input should be a valid integer"),
        ("GUARD_TIMEOUT_S", "0", "GUARD_TIMEOUT_S=0 is not accepted: Input should be greater than 0"),
        ("GUARD_DEVICE", "gpu", "GUARD_DEVICE=gpu is not accepted: Input should be 'auto', 'cpu' or 'cuda'"),
        ("GUARD_MAX_BYTE", "5", "GUARD_MAX_BYTE is not a setting; did you mean GUARD_MAX_BYTES?"),
        ("GUARD_MAX_BATCH_IMAGES", "129", r"GUARD_MAX_BATCH_IMAGES \(129\) must not exceed GUARD_MAX_CONCURRENCY"),
        ("GUARD_MAX_BUFFERED_BYTES", "10", r"GUARD_MAX_BUFFERED_BYTES \(10\) must be at least GUARD_MAX_BYTES"),
    ],
)
def test_a_wrong_setting_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence):
        read_settings()


def test_other_peoples_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_DOG_NAME", "Rex")
    read_settings()


def test_without_a_model_the_latest_run_is_served_and_else_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactNotFoundError, match=r"guard demo, or: guard export RUN guard\.onnx") as caught:
        read_settings().model_paths()
    assert "\n" not in str(caught.value)
    latest = tmp_path / "runs" / "latest" / "guard.onnx"
    latest.parent.mkdir(parents=True)
    latest.touch()
    assert read_settings().model_paths() == {"guard": latest}
    assert read_settings(model="other.onnx").model_paths()["guard"] == tmp_path / "other.onnx"


def test_workers_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert Settings(workers=3).worker_threads == 2
    assert Settings(workers=100).worker_threads == 1
    assert Settings(workers=3, threads=5).worker_threads == 5


@pytest.mark.parametrize(
    ("flag", "variable", "host"), [(None, None, "127.0.0.1"), (None, "::1", "::1"), ("::1", "0.0.0.0", "::1")]
)
def test_guard_serve_listens_where_it_is_told(
    flag: str | None, variable: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the flag, else by GUARD_HOST."""
    if variable is not None:
        monkeypatch.setenv("GUARD_HOST", variable)

    def looked_at(found: str, port: int) -> None:
        raise ConfigError(f"{found}:{port}")

    monkeypatch.setattr(runner, "_environment", lambda *_, **__: {})
    monkeypatch.setattr(runner, "_check_port", looked_at)
    with pytest.raises(ConfigError, match=f"^{host}:80$"):
        runner.serve(host=flag, port=80)


def test_a_comma_in_a_folders_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths get the folder's name, and a comma ends a path in GUARD_MODELS."""
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "pets.onnx").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "a,b")
    monkeypatch.setenv("GUARD_MODELS", "pets=pets.onnx")
    with pytest.raises(ConfigError, match=r"GUARD_MODELS: .*a,b/pets\.onnx has a comma, which ends a path there"):
        paths_environment(read_settings())


def test_a_copy_of_an_engine_can_be_built_again(tmp_path: Path) -> None:
    """On another GPU: of the ONNX file beside it."""
    for name in ("guard.engine", "guard.engine.json", "guard.engine.onnx"):
        (tmp_path / name).write_text(name)
    control = Control()
    with control.changing():
        copy = control.copy("guard", tmp_path / "guard.engine")
    assert {path.name: path.read_text() for path in copy.parent.iterdir()} == {
        name: name for name in ("guard.engine", "guard.engine.json", "guard.engine.onnx")
    }
