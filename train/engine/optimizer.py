"""The optimizer of a stage: of the classifier's trained part, and of what its regularisers learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from guard.graph.outputs import Classifier
from guard.heads import Head

if TYPE_CHECKING:
    from ..losses.base import Regulariser
    from ..methods.base import Stage


def stage_optimizer(
    stage: Stage, trained: nn.Module | None, regularisers: Sequence[Regulariser]
) -> torch.optim.Optimizer:
    """One optimizer of all parameters that no regulariser has an optimizer of its own for.

    Args:
        trained: the part of the classifier that learns; None where only regularisers do.
    """
    groups = _groups(_parts(stage, trained, regularisers), regularisers, stage.weight_decay)
    if stage.optimizer == "adam":
        return torch.optim.Adam(groups, lr=stage.lr, betas=(stage.momentum, 0.999))
    return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, nesterov=stage.nesterov)


def _parts(
    stage: Stage, trained: nn.Module | None, regularisers: Sequence[Regulariser]
) -> list[tuple[nn.Module, float]]:
    """What learns, with the factors of the learning rate."""
    learning: list[tuple[nn.Module, float]] = [(regulariser, regulariser.lr_factor) for regulariser in regularisers]
    if isinstance(trained, Classifier) and stage.backbone_lr != 1:
        return [(trained.backbone, stage.backbone_lr), (trained.head, 1.0), *learning]
    return learning if trained is None else [(trained, 1.0), *learning]


def _groups(
    parts: list[tuple[nn.Module, float]], regularisers: Sequence[Regulariser], weight_decay: float
) -> list[dict[str, Any]]:
    """Two for each factor of the learning rate, and one for each weight decay that a head has of its own.

    Norms, biases, scales and links are not decayed.
    """
    own = _with_optimizers(regularisers)
    groups: list[dict[str, Any]] = []
    for factor in dict.fromkeys(factor for _, factor in parts):
        modules = nn.ModuleList([part for part, f in parts if f == factor])
        by_decay: dict[float, list[nn.Parameter]] = {}
        decays = _own_decay(modules)
        decayed: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for parameter in modules.parameters():
            if id(parameter) in own:
                continue
            if id(parameter) in decays:
                by_decay.setdefault(decays[id(parameter)], []).append(parameter)
            else:
                (decayed if parameter.ndim >= 2 else rest).append(parameter)
        groups.append({"params": decayed, "weight_decay": weight_decay, "factor": factor})
        groups.append({"params": rest, "weight_decay": 0.0, "factor": factor})
        groups += [{"params": some, "weight_decay": decay, "factor": factor} for decay, some in by_decay.items()]
    return groups


def _own_decay(modules: nn.Module) -> dict[int, float]:
    """Parameters, by id, whose weight decay a head among the modules decides."""
    heads = [module for module in modules.modules() if isinstance(module, Head)]
    return {id(parameter): decay for head in heads for parameter, decay in head.own_decay().items()}


def _with_optimizers(regularisers: Sequence[Regulariser]) -> set[int]:
    """The parameters that regularisers have optimizers of their own for."""
    others = [group for r in regularisers for o in r.optimizers().values() for group in o.param_groups]
    return {id(p) for group in others for p in group["params"]}
