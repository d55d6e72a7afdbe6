"""Embeddings that are found once and drawn from afterwards, kept in a file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError
from guard.record import Record

from ...cache.keyed import keyed_path
from ..base import PrepareContext

log = logging.getLogger("ood_guard")

TOKEN_WIDTH, TOKEN_NORM = 768, 0.39  # of Stable Diffusion 1.x's token embeddings, which published noises belong to


class Embeddings(NamedTuple):
    """Points of a conditioning space.

    data: e (M, E), float32. classes: int64 (M,), whose name each stands for in a prompt; every class has at least one.
    parents: int64 (M, P), the in-distribution classes each was made from.
    """

    data: Tensor
    classes: Tensor
    parents: Tensor


Values = dict[str, Any]
"""What was used after options were fitted to the data (neighbours, noise ...), for the record; plain JSON."""


class EmbeddingTable:
    """Draws from `Embeddings`: a random class, then a random row of it, so that classes come equally often.

    They stay in the memory that they are in, which is the host's: 10,000 for each of 1,000 classes are 31 GB.
    """

    def __init__(self, embeddings: Embeddings, num_classes: int) -> None:
        if not bool((embeddings.classes.diff() >= 0).all()):  # else as they are, without a copy
            order = embeddings.classes.argsort(stable=True)
            embeddings = Embeddings(*(part[order] for part in embeddings))
        self.embeddings = embeddings
        self.counts = torch.bincount(embeddings.classes, minlength=num_classes)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, count: int, generator: torch.Generator, first: int | None = None) -> Embeddings:
        """`count` of them, with replacement, on the generator's device.

        Args:
            first: of each class only the first so many.
        """
        uniform = torch.rand(2, count, generator=generator, device=generator.device, dtype=torch.float64)
        uniform = uniform.to(self.counts.device)
        drawn = (uniform[0] * len(self.counts)).long()
        counts = self.counts if first is None else self.counts.clamp_max(first)
        rows = self.starts[drawn] + (uniform[1] * counts[drawn]).long()
        return Embeddings(*(part[rows].to(generator.device) for part in self.embeddings))


def kept_embeddings(
    context: PrepareContext,
    kind: str,
    options: Record,
    inputs: Sequence[Tensor],
    make: Callable[[], tuple[Embeddings, Values]],
) -> Embeddings:
    """What `make` gives, from a file of the context's folder where options, seed and inputs are those it was made with.

    The values that were used are logged, and stand in the file's header as JSON under "made".

    Args:
        kind: what they are called in the file's name.
        inputs: the tensors that they are made from.

    Raises:
        ArtefactDamagedError: the kept file cannot be read.
    """
    identity = {"options": options, "seed": context.seed, "inputs": inputs}
    path = keyed_path(context.folder, f"embeddings-{kind}", identity)
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                return Embeddings(*(file.get_tensor(name) for name in Embeddings._fields))
        except SafetensorError as error:
            raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to make it anew") from None
    embeddings, values = make()
    embeddings = Embeddings(*(part.cpu() for part in embeddings))
    log.info("embeddings: %s, %d; %s", kind, len(embeddings.data), summary(values))
    tensors = {name: value.contiguous() for name, value in embeddings._asdict().items()}
    if tensors["parents"].data_ptr() == tensors["classes"].data_ptr():
        tensors["parents"] = tensors["parents"].clone()  # a file holds no memory twice
    write_atomic(path, save(tensors, {"made": json.dumps(values)}))
    return embeddings


def summary(values: Values) -> str:
    """The values for people; of those per class, the smallest and the largest."""
    said = [f"{name} {value}" for name, value in values.items() if name != "per_class"]
    per_class: list[dict[str, Any]] = values.get("per_class", [])
    for name in per_class[0] if per_class else ():
        low, high = (extreme(one[name] for one in per_class) for extreme in (min, max))
        said.append(f"{name} {low:.4g}" if low == high else f"{name} {low:.4g} to {high:.4g}")
    return ", ".join(said)


def width_factor(width: int) -> float:
    """sqrt(768 / E): by which noise per coordinate grows so that it is as long in E coordinates as in 768."""
    return math.sqrt(TOKEN_WIDTH / width)


def class_generator(context: PrepareContext, c: int) -> torch.Generator:
    """Random numbers of one class, whatever is drawn for the others."""
    return torch.Generator(context.device).manual_seed((context.seed * 1_000_003 + 40_009 * (c + 1)) % 2**63)
