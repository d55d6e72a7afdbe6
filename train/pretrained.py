"""Published weights of timm's networks: a safetensors file, a folder as timm saves it, a hub id. No pickle is read.

weights.safetensors     the state of a timm model under timm's names; backbone= says of which
folder/                 model.safetensors and config.json (timm.models.save_for_hf), which says it too
user/name               the same two files on the Hugging Face hub, or in its cache
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from guard.data.forms.hub import hub_answers
from guard.errors import ConfigError, MissingDataError
from guard.paths import expanded

WEIGHTS, CARD = "model.safetensors", "config.json"
SUFFIX = ".safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOLD = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "first_conv", "classifier")
WITHOUT_HUB = (
    "without the hub, give pretrained= a local file 'weights.safetensors', or timm's folder of model.safetensors and "
    "config.json; what the hub's cache holds is read without asking where HF_HUB_OFFLINE=1 is set"
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights on this machine.

    Attributes:
        architecture: timm's name; None where only the user knows it.
        config: what the checkpoint says in place of timm's own `pretrained_cfg`: mean, std ...
    """

    file: Path
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def checkpoint(given: str | Path) -> Checkpoint:
    """What ``pretrained=`` names.

    Raises:
        MissingDataError: neither there nor on a hub that answers.
        ConfigError: a pickle, or a folder that timm did not write.
    """
    path = expanded(given)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix != SUFFIX:
            raise ConfigError(
                f"pretrained={str(given)!r} is not a {SUFFIX} file, and pickles are not read; convert it where you "
                "trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            )
        return Checkpoint(path)
    if path.suffix == SUFFIX or not HUB_ID.fullmatch(str(given)):
        raise MissingDataError(
            f"pretrained={str(given)!r} is neither a file nor a folder here, and no hub id like timm/resnet18.a1_in1k"
        )
    return _from_hub(str(given))


def _in_folder(folder: Path) -> Checkpoint:
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise ConfigError(
                f"pretrained={str(folder)!r} holds no {name}; accepted is a folder as timm.models.save_for_hf(model, "
                "folder, safe_serialization=True) writes it. A run folder of ours is given as init="
            )
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        architecture = card.get("architecture")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / CARD} cannot be read ({error}); save the model again") from None
    if not isinstance(architecture, str):
        raise ConfigError(
            f"{folder / CARD} names no timm architecture; a transformers model is not fine-tuned here: train it with "
            "transformers, and guard.fit gives it a guard"
        )
    told = card.get("pretrained_cfg") or {}
    return Checkpoint(folder / WEIGHTS, architecture, {key: told[key] for key in TOLD if told.get(key) is not None})


def _from_hub(name: str) -> Checkpoint:
    from huggingface_hub import hf_hub_download

    try:
        with impatient():
            files = [Path(hf_hub_download(name, file)) for file in (CARD, WEIGHTS)]
    except Exception as error:  # huggingface_hub's own classes, by version
        raise MissingDataError(
            f"pretrained={name!r}: no such folder, and no model of that id can be had ({_said(error)}); {WITHOUT_HUB}"
        ) from error
    return _in_folder(files[0].parent)


@contextmanager
def impatient(asked: bool = True) -> Iterator[None]:
    """Inside, only the hub's cache is read where the hub does not answer: its clients would go on for a minute.

    Args:
        asked: whether anybody is going to ask the hub.
    """
    from huggingface_hub import constants

    if not asked:
        yield
        return
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def overlay(found: Checkpoint) -> dict[str, Any]:
    """What `timm.create_model(pretrained=True, pretrained_cfg_overlay=...)` takes to load these weights.

    timm's own rules hold for other channels and another size of a vision transformer's input.
    """
    return {**found.config, "file": str(found.file)}


def check_is_of(model: nn.Module, found: Checkpoint) -> None:
    """Raises: ConfigError: timm left weights of the model random, because the file has none of these names."""
    from safetensors import safe_open

    with safe_open(found.file, "pt") as file:
        there = set(file.keys())
    wanted = set(model.state_dict())
    if missing := sorted(wanted - there):
        raise ConfigError(
            f"{found.file} lacks {len(missing)} of {len(wanted)} weights, {missing[0]!r} first; name the backbone that "
            "it was saved from, and save it under timm's names"
        )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ")
