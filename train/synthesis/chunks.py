"""Tensors that take long to make, piece by piece, in a folder: a killed run goes on at the first missing piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from guard.artefact import write_atomic
from guard.errors import ArtefactDamagedError

from ..loop import progress_bar

Columns = dict[str, Tensor]


def kept_chunks(folder: Path, count: int, make: Callable[[int], Columns], title: str) -> Columns:
    """The columns that ``make(0) .. make(count - 1)`` give, each joined along its first axis; on the CPU.

    Args:
        folder: whose name says all that decides the pieces; may not exist. 00000.safetensors ... are written whole.
        make: must depend on its number alone, not on what was made before.

    Raises:
        ArtefactDamagedError: a kept piece cannot be read.
    """
    found: list[Columns] = []
    with progress_bar(title, count) as advance:
        for i in range(count):
            path = folder / f"{i:05d}.safetensors"
            if not path.exists():
                made = {name: column.detach().cpu().contiguous() for name, column in make(i).items()}
                write_atomic(path, save(made))
            try:
                found.append(load(path.read_bytes()))
            except SafetensorError as error:
                raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to make it anew") from None
            advance()
    return {name: torch.cat([piece[name] for piece in found]) for name in found[0]}
