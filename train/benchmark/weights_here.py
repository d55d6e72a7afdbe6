"""Weights that a benchmark's trainings start from, and whether they are on this machine; nothing is fetched."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.benchmark_file import BenchmarkFile
from guard.record import Record

from ..generators.diffusion import DiffusionOptions
from ..generators.latent_pair.base import PairOptions
from ..teacher import TeacherOptions


@dataclass(frozen=True)
class Weights:
    """Weights by the option that names them; `about` as the file's `needs` say."""

    option: str
    name: str
    there: bool
    about: str = ""


def weights_of(asked: BenchmarkFile, options: Iterable[tuple[Any, Record]]) -> list[Weights]:
    """All that the runs name, each once.

    Args:
        options: the requests of the runs, each with its method's options.
    """
    found = dict.fromkeys(one for request, parsed in options for one in _named(request, parsed))
    about = asked.needs.weights
    return [Weights(option, name, there, about.get(option, "")) for option, name, there in found]


def _named(request: Any, options: Record) -> Iterator[tuple[str, str, bool]]:
    if request.pretrained is True:
        yield "pretrained", request.backbone, _timm_there(request.backbone)
    elif request.pretrained:
        yield "pretrained", str(request.pretrained), Path(request.pretrained).exists()
    for value in dict(options).values():
        if isinstance(value, DiffusionOptions) and value.pipeline is not None:
            yield "diffusion.pipeline", value.pipeline, _pipeline_there(value.pipeline)
        if isinstance(value, TeacherOptions) and value.pretrained:
            yield "teacher.pretrained", value.model, _timm_there(value.model)
        if isinstance(value, PairOptions) and ":" in value.model:
            module = value.model.partition(":")[0]
            yield "pair.model", value.model, Path(f"{module}.py").exists() or _module_there(module)


def _module_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _pipeline_there(name: str) -> bool:
    return Path(name).is_dir() or _cached(name, "model_index.json")


def _timm_there(name: str) -> bool:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    return any(_cached(config.hf_hub_id, file) for file in ("model.safetensors", "pytorch_model.bin"))


def _cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:
        return False
