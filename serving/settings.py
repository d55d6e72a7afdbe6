"""Everything about a running service that is not in the guard file: environment variables ``GUARD_<NAME>``."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from guard.cores import available_cores
from guard.errors import ArtefactNotFoundError, ConfigError
from guard.paths import expanded

DEFAULT_MODEL = Path("runs/latest/guard.onnx")
_HOME = Path(__file__).resolve().parent.parent  # holds this package
MIB = 1024 * 1024
ONLY_MODEL = "guard"  # the name of a guard that is alone
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/?#@:,*]+)(:\d{1,5})?")


class Settings(BaseSettings):
    """The service's settings; each field ``name`` is read from ``GUARD_NAME``.

    Attributes:
        model: the guard: an .onnx file, an .engine file or a run folder. Default runs/latest/guard.onnx.
        models: several guards in place of one: name=path, separated by commas, like pets=a.onnx,cars=b.onnx. A request
            chooses with ?model=cars; the first is the default.
        device: "auto", "cpu" or "cuda".
        host: address to listen on when the command line names none. The default is reachable from this machine only.
        workers: processes; each holds its own copy of the model.
        threads: ONNX Runtime threads per worker; 0 = cores / workers. Two workers of one thread beat one of two.
        batch_size: most images scored in one run of the graph.
        batch_wait_ms: milliseconds a batch waits for more images; 0 takes what has queued up during the last run.
        max_bytes: largest image file, in bytes.
        max_batch_bytes: largest body of /predict_batch, in bytes.
        max_json_bytes: largest JSON of an inference request; numbers in JSON cost far more than in binary data.
        max_pixels: largest image, width x height, read from the header before anything is decoded.
        max_batch_images: most images in one /predict_batch.
        max_concurrency: images in work at the same time per worker; more are answered 503 at once.
        max_buffered_bytes: bytes of request bodies held at the same time per worker; more are answered 503 at once.
        timeout_s: seconds for one request: upload (then 408) and answer (then 503).
        cors_origins: origins whose pages a browser lets read the answers, separated by commas, like
            https://app.example,http://localhost:5173; * for every one. Default none.
        drift: whether the traffic is tested for drift (GET /drift).
        drift_alpha: the chance that ordinary traffic ever raises the drift alarm, in (0, 1).
        drift_folder: where the drift tests keep their state, a small file per guard and artefact. By default it lives
            as long as the service; named, it is gone on with at the next start.
        token: the secret that every request but health checks and the page itself must bring as Authorization: Bearer;
            printable ASCII. Default none: who reaches the service may ask it.
        keep_flagged: a folder in which flagged images are kept with a manifest (`serving.flagged`). Default none.
        keep_flagged_bytes: that the folder may hold; the oldest images make room.
        log: "text", or "json" for one object a line.
        access_log: one log line per request; /metrics counts them anyway.
    """

    model_config = SettingsConfigDict(env_prefix="GUARD_", frozen=True, extra="forbid", env_ignore_empty=True)

    model: Path | None = None
    models: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    host: str = "127.0.0.1"
    workers: int = Field(default=1, ge=1, le=256)
    threads: int = Field(default=0, ge=0, le=1024)
    batch_size: int = Field(default=32, ge=1, le=4096)
    batch_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    max_bytes: int = Field(default=20 * MIB, ge=1)
    max_batch_bytes: int = Field(default=64 * MIB, ge=1)
    max_json_bytes: int = Field(default=4 * MIB, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_batch_images: int = Field(default=64, ge=1)
    max_concurrency: int = Field(default=128, ge=1)
    max_buffered_bytes: int = Field(default=256 * MIB, ge=1)
    timeout_s: float = Field(default=30.0, gt=0, le=3600)
    cors_origins: str = ""
    drift: bool = True
    drift_alpha: float = Field(default=0.01, gt=0, lt=1)
    drift_folder: Path | None = None
    token: SecretStr | None = None
    keep_flagged: Path | None = None
    keep_flagged_bytes: int = Field(default=1024 * MIB, ge=1)
    log: Literal["text", "json"] = "text"
    access_log: bool = False

    @field_validator("model", "drift_folder", "keep_flagged")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return None if path is None else expanded(path)

    @field_validator("host")
    @classmethod
    def _an_address(cls, host: str) -> str:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("an IP address is needed, such as 127.0.0.1, 0.0.0.0 or ::") from None
        return host

    @field_validator("token")
    @classmethod
    def _printable(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            secret = token.get_secret_value()
            if not (secret and secret.isascii() and secret.isprintable() and secret == secret.strip()):
                raise ValueError("a token must be printable ASCII without spaces around it, at least one character")
        return token

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.max_batch_images > self.max_concurrency:
            raise ValueError(
                f"GUARD_MAX_BATCH_IMAGES ({self.max_batch_images}) must not exceed GUARD_MAX_CONCURRENCY "
                f"({self.max_concurrency}), or a full batch would always be refused"
            )
        if max(self.max_bytes, self.max_batch_bytes) > self.max_buffered_bytes:
            raise ValueError(
                f"GUARD_MAX_BUFFERED_BYTES ({self.max_buffered_bytes}) must be at least GUARD_MAX_BYTES and "
                f"GUARD_MAX_BATCH_BYTES ({max(self.max_bytes, self.max_batch_bytes)}), or the largest body would "
                "always be refused"
            )
        if self.models and self.model is not None:
            raise ValueError("GUARD_MODEL and GUARD_MODELS are both set; give one guard or several, not both")
        _named_paths(self.models)
        for origin in self.origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"GUARD_CORS_ORIGINS: {origin[:100]!r} is not an origin; give scheme and host without a path, like "
                    "https://app.example or http://localhost:5173, separated by commas, or *"
                )
        return self

    @property
    def origins(self) -> tuple[str, ...]:
        """`cors_origins`, one by one."""
        return tuple(part.strip().lower() for part in self.cors_origins.split(",") if part.strip())

    @property
    def worker_threads(self) -> int:
        """ONNX Runtime threads, and decoding threads, of one worker."""
        return self.threads or max(1, available_cores() // self.workers)

    def model_paths(self) -> dict[str, Path]:
        """The guards to serve by name, as absolute paths; the first is the default.

        Raises:
            ArtefactNotFoundError: none was named and the default is not there; says which command makes one.
        """
        return _named_paths(self.models) or {ONLY_MODEL: self._only_path()}

    def _only_path(self) -> Path:
        if self.model is not None:
            return self.model.absolute()
        if DEFAULT_MODEL.exists():
            return DEFAULT_MODEL.absolute()
        if (_HOME.parent / "bento.yaml").is_file() and (_HOME / DEFAULT_MODEL).exists():  # in a bento, beside the code
            return _HOME / DEFAULT_MODEL
        raise ArtefactNotFoundError(
            f"no guard to serve: GUARD_MODEL is not set and there is no {DEFAULT_MODEL}; make one with: guard demo, "
            "or: guard export RUN guard.onnx, and then: GUARD_MODEL=guard.onnx bentoml serve serving:svc"
        )


def _named_paths(models: str) -> dict[str, Path]:
    """name=path,name=path -> absolute paths by name.

    Raises:
        ValueError: not of that form, or a name twice.
    """
    paths: dict[str, Path] = {}
    for item in (part.strip() for part in models.split(",") if part.strip()):
        name, is_given, path = (part.strip() for part in item.partition("="))
        if not is_given or not path or not _MODEL_NAME.fullmatch(name):
            raise ValueError(
                f"GUARD_MODELS: {item[:100]!r} is not name=path with a name of letters, digits, '.', '_' and '-'; give "
                "them like pets=a.onnx,cars=b.onnx"
            )
        if name in paths:
            raise ValueError(f"GUARD_MODELS: the name {name!r} is given twice; give every guard a name of its own")
        paths[name] = expanded(path).absolute()
    return paths


def read_settings(**overrides: Any) -> Settings:
    """The settings from the environment; `overrides` (None: not given) win.

    Raises:
        ConfigError: a value out of range, or a name that looks like a misspelt setting (other GUARD_* are left alone).
    """
    known = {f"GUARD_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith("GUARD_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                raise ConfigError(f"{name} is not a setting; did you mean {near[0]}?")
    if os.environ.get("GUARD_TOKEN") == "":
        raise ConfigError("GUARD_TOKEN is set and empty, which would protect nothing; give it a value, or unset it")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from None
        name = f"GUARD_{str(first['loc'][0]).upper()}"
        shown = "" if name == "GUARD_TOKEN" else f"={first['input']}"
        raise ConfigError(f"{name}{shown} is not accepted: {first['msg'].removeprefix('Value error, ')}") from None


def paths_environment(settings: Settings) -> dict[str, str]:
    """The variables by which a process in another folder uses the same files; raises as `model_paths` does."""
    paths = settings.model_paths()
    if settings.models:
        if cut := next((path for path in paths.values() if "," in str(path)), None):
            raise ConfigError(
                f"GUARD_MODELS: {cut} has a comma, which ends a path there; move the guard, or link to it"
            )
        found = {"GUARD_MODELS": ",".join(f"{name}={path}" for name, path in paths.items())}
    else:
        found = {"GUARD_MODEL": str(paths[ONLY_MODEL])}
    for name in ("keep_flagged", "drift_folder"):
        if (folder := getattr(settings, name)) is not None:
            found[f"GUARD_{name.upper()}"] = str(folder.absolute())
    return found
