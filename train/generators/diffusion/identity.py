"""Which diffusion model it is: a digest of its weights, equal on every machine and in every process."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from .base import Diffusion


def weights_digest(model: Diffusion) -> str:
    """16 hex digits of all tensors of the model: a module's state, a pipeline's parts, or else its attributes.

    A pipeline is in half precision on a GPU, so its weights are always taken in that.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _tensors(model: Any) -> list[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        return sorted(model.state_dict().items())
    pipeline = getattr(model, "pipeline", None)
    parts = vars(model) if pipeline is None else pipeline.components
    found: list[tuple[str, Tensor]] = []
    for name, part in sorted(parts.items()):
        if isinstance(part, nn.Module):
            found += [(f"{name}.{key}", value) for key, value in sorted(part.state_dict().items())]
        elif isinstance(part, Tensor):
            found.append((name, part))
    return found if pipeline is None else [(n, t.half() if t.is_floating_point() else t) for n, t in found]
