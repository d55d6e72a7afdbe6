"""Names that hold a digest of what determines a content, so that it is made once and never mistaken for another.

A record of what determines it (options, seed, which images, which model) becomes one key, by content and never by
measurement: tensors and networks count as the bytes of their numbers, which are equal in every process, on every rank
and machine, whatever the precision of the computation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ..engine.checkpoint import weights_bytes

if TYPE_CHECKING:
    from guard.data import ImageData

    from ..outliers.base import PrepareContext

SHORT, LONG = 12, 16  # hex digits, in file names and in records


def digest(record: Any, length: int = SHORT) -> str:
    """Hex digits of a record: of records, mappings, sequences, texts, numbers, None; of tensors, arrays, networks."""
    return hashlib.sha256(json.dumps(_plain(record), sort_keys=True).encode()).hexdigest()[:length]


def _plain(value: Any) -> Any:
    """JSON, with contents in place of tensors and networks."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Tensor | np.ndarray):
        return content_digest(value)
    return weights_digest(value) if isinstance(value, nn.Module) else value


def content_digest(values: Tensor | np.ndarray, length: int = LONG) -> str:
    """Hex digits of the numbers of a tensor or array, of their type and shape."""
    array = values.detach().cpu().contiguous() if isinstance(values, Tensor) else np.ascontiguousarray(values)
    content = hashlib.sha256(f"{array.dtype} {tuple(array.shape)}".removeprefix("torch.").encode())
    flat = array.reshape(-1)
    content.update((flat.view(torch.uint8).numpy() if isinstance(flat, Tensor) else flat.view(np.uint8)).data)
    return content.hexdigest()[:length]


def weights_digest(network: nn.Module, dtype: torch.dtype | None = None) -> str:
    """16 hex digits of a network's state: those of a safetensors file of it.

    Args:
        dtype: that its floating-point numbers are taken in, for networks that machines load in different precisions.
    """
    return hashlib.sha256(weights_bytes(network, dtype)).hexdigest()[:LONG]


def file_digest(path: Path) -> str:
    """16 hex digits of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LONG]


def model_identity(model: Any) -> str:
    """Which model it is, for keys: what it says itself (a text, `identity`), else by its weights.

    Those are its own where it is a network, and else of the networks and tensors among its attributes. A model of which
    more counts (a number that changes what it makes) says so.
    """
    said = getattr(model, "identity", None)
    if isinstance(said, str):
        return said
    if isinstance(model, nn.Module):
        return weights_digest(model)
    parts = {name: part for name, part in vars(model).items() if isinstance(part, Tensor | nn.Module)}
    return digest([type(model).__qualname__, parts], LONG)


def named_model(name: str) -> str:
    """Which published model that is: a folder by what is in it, a hub id by its name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return digest({path.relative_to(folder).as_posix(): file_digest(path) for path in files}, LONG)


def rows_digest(rows: np.ndarray) -> str:
    """Hex digits of numbers of rows, in their order."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()


def images_identity(data: ImageData, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Which images these are, and how they were read. `rows`: which of them, where not all."""
    return {
        "data": data.fingerprint,
        "rows": rows_digest(data.rows if rows is None else data.rows[rows]),
        "pixels": data.preprocess.model_dump(mode="json"),
    }


def keyed_path(folder: Path, kind: str, identity: Mapping[str, Any], suffix: str = ".safetensors") -> Path:
    """The file of that kind, or folder where `suffix` is empty, whose content `identity` determines."""
    return folder / f"{kind}-{digest(identity)}{suffix}"


def kept_path(context: PrepareContext, kind: str, options: BaseModel, schedule: BaseModel | None = None) -> Path:
    """The file of what is made from the context's images: by options and, where it is learned, a schedule."""
    learned = {} if schedule is None else {"schedule": schedule}
    identity = {"options": options, **learned, "seed": context.seed, **images_identity(context.data)}
    return keyed_path(context.folder, kind, identity)
