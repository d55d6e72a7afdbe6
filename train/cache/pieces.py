"""Tensors that take long to make, piece by piece, in a folder: a killed run resumes at the first missing piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError

from ..engine.distributed import Processes, alone, processes
from ..engine.progress import progress_bar

Columns = dict[str, Tensor]
ALONE = Processes()


def kept_chunks(
    folder: Path, count: int, make: Callable[[int], Columns], title: str, us: Processes | None = None
) -> Columns:
    """The columns that ``make(0) .. make(count - 1)`` give, each joined along its first axis; on the CPU.

    Args:
        folder: whose name says all that decides the pieces; may not exist. 00000.safetensors ... are written whole.
        make: must depend on its number alone, not on what was made before.
        us: who makes them; several call this at once, each makes its share, and all get the whole. None: `processes`.

    Raises:
        ArtefactDamagedError: a kept piece cannot be read.
    """
    paths = [folder / f"{i:05d}.safetensors" for i in range(count)]
    us = us or processes()
    share, found = us.share(list(range(count))), {}
    with alone(), progress_bar(title, len(share)) as advance:
        for i in share:
            if not paths[i].exists():
                made = {name: column.detach().cpu().contiguous() for name, column in make(i).items()}
                write_atomic(paths[i], save(made))
            found[i] = read_piece(paths[i])
            advance()
    us.wait()
    pieces = [found[i] if i in found else read_piece(path) for i, path in enumerate(paths)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def read_piece(path: Path, *names: str) -> Columns:
    """The columns of a kept file, with those of `names` among them.

    Raises:
        ArtefactDamagedError: it cannot be read, or lacks one.
    """
    try:
        columns: Columns = load(path.read_bytes())
    except SafetensorError as error:
        raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to make it anew") from None
    if lacking := set(names) - columns.keys():
        raise ArtefactDamagedError(f"{path} has no {', '.join(sorted(lacking))}; remove it to make it anew")
    return columns
