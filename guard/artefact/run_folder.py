"""A torch guard as a folder: ``guard.safetensors`` beside ``guard.json``, here or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._siblings import sibling
from ..errors import ArtefactNotFoundError, MissingExtraError
from ..paths import path_given
from .files import FOLDER_MANIFEST, FOLDER_WEIGHTS, read_pair, write_pair

if TYPE_CHECKING:
    from ..detector import Guard
    from ..manifest import Manifest
    from ..runtimes.torch_module import TorchModule


def save_pretrained(g: Guard, folder: Path) -> Path:
    """Write a torch guard as guard.safetensors + guard.json; an exported guard keeps its own format (`Guard.save`)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = sibling("train.engine.checkpoint").weights_bytes(g.module)
    manifest = write_pair(folder / FOLDER_WEIGHTS, folder / FOLDER_MANIFEST, weights, g.manifest)
    g.manifest = manifest
    return folder


def open_run_folder(folder: str | Path, *, device: str = "auto", model: Any = None) -> tuple[Manifest, TorchModule]:
    """What `Guard.from_pretrained` makes a guard of."""
    path = path_given(folder, "the path of a guard")
    if not path.is_dir():
        path = _from_hub(str(folder))
    if not (path / FOLDER_MANIFEST).exists():
        found = sorted(p.name for p in path.iterdir())[:8]
        raise ArtefactNotFoundError(
            f"{path} is not a run folder: it has no {FOLDER_MANIFEST} (found: {', '.join(found) or 'nothing'}); "
            "a run that was not finished resumes with guard.train(..., resume=True)"
        )
    weights, manifest = read_pair(path / FOLDER_WEIGHTS, path / FOLDER_MANIFEST)
    try:
        rebuild = sibling("train.classifiers.rebuild")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} (needed for a run folder; an exported .onnx file runs without it)", "train"
        ) from error
    return manifest, rebuild.runtime_from_folder(manifest, weights, device=device, model=model)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ArtefactNotFoundError(f"no such folder: {name}; accepted: a run folder, or a hub id user/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "train") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[FOLDER_MANIFEST, FOLDER_WEIGHTS]))
    except Exception as error:
        raise ArtefactNotFoundError(f"{name} is neither a folder here nor a repository on the hub ({error})") from error
