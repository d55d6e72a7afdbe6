"""The registry of diffusion models: what may be registered, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guard.errors import ConfigError
from guard.record import parse_options
from train.generators.diffusion import DiffusionOptions, base, make_diffusion, register_diffusion
from train.outliers.base import PrepareContext


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    before = dict(base._MODELS)
    yield base._MODELS
    base._MODELS.clear()
    base._MODELS.update(before)


def context(data: Any = None) -> PrepareContext:
    return PrepareContext(None, data, Path("nowhere"), 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_what_a_model_lacks_is_named(registered: dict[str, Any]) -> None:
    register_diffusion("half", lambda context, options: SimpleNamespace(width=3, times=10, encode=len))  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"'half' is a SimpleNamespace that lacks latent_shape, own_size, decode"):
        make_diffusion(context(), DiffusionOptions(model="half"))


@pytest.mark.parametrize("name", ["built-in", "stable-diffusion"])
def test_the_names_of_ours_are_taken(name: str, registered: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="comes with ood-guard"):
        register_diffusion(name, lambda context, options: None)  # type: ignore[arg-type,return-value]


def test_an_unknown_name_gets_near_matches(registered: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"unknown diffusion model .*; did you mean 'stable-diffusion'"):
        parse_options(DiffusionOptions, {"model": "stable_diffusion"}, "method 'ncis'")


def test_a_name_alone_is_the_model() -> None:
    assert DiffusionOptions.model_validate("built-in") == DiffusionOptions(model="built-in")


def test_the_old_name_of_the_built_in_model_is_said() -> None:
    with pytest.raises(ConfigError, match="diffusion model 'own' is now called 'built-in'"):
        parse_options(DiffusionOptions, {"model": "own"}, "method 'ncis'")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("width", 16),
        ("conditioning", "label"),
        ("prediction", "epsilon"),
        ("latent", True),
        ("patch", 2),
        ("lr", 0.1),
        ("batch_size", 8),
    ],
)
def test_stable_diffusion_is_trained_already(name: str, value: Any, registered: dict[str, Any]) -> None:
    stable = {"model": "stable-diffusion", "pipeline": "someone/some-pipeline"}
    with pytest.raises(ConfigError, match=f"{name}=.* is not read with model='stable-diffusion'"):
        parse_options(DiffusionOptions, {**stable, name: value}, "method 'ncis'")
    register_diffusion("mine", lambda context, options: None)  # type: ignore[arg-type,return-value]
    for model in ("built-in", "mine"):
        assert getattr(DiffusionOptions(**{"model": model, name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [("pipeline", "a/b"), ("prompt", "a {}")])
def test_the_built_in_model_reads_no_words(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='{value}' is not read with model='built-in'"):
        parse_options(DiffusionOptions, {name: value}, "method 'ncis'")
