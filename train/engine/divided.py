"""A step that several processes share: each takes some rows of the batch through the network, and all see the whole.

Every process draws the same batch and the same random numbers. `divided` cuts the rows, takes this process's through
the network with batch norm over all of them (`synced_norm`), and gathers what it gives. All that follows (heads,
losses, queues) every process computes of the whole batch, as one process would: no part of a method knows of it.

Gradients: outside of `divided` each process has those of the whole loss. Inside it has those of its own rows, times the
number of processes W. So `average_gradients` is right for every parameter, inside, outside, or both:

    inside   1/W sum_r W g_r = sum_r g_r          outside   1/W sum_r g = g

and afterwards all processes hold the same numbers, to the bit. DistributedDataParallel would average in the same way;
it wants the loss within its forward, of each process's rows alone, and its queues, buffers and unused parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from guard.errors import ConfigError

from .distributed import Processes, processes
from .synced_norm import SyncedBatchNorm

Made = TypeVar("Made")


def divided(function: Callable[..., Made], *rows: Tensor) -> Made:
    """``function(*rows)``, to which each process contributes its rows.

    Args:
        function: of tensors (N, ...) that are equal in every process; gives a tensor (N, ...), or a tuple of such
            tensors and None. What it makes of a row may depend on others by batch norm alone.

    Where there are fewer rows than processes, each takes all of them.
    """
    us, n = processes(), len(rows[0])
    if us.world == 1 or n < us.world:
        return function(*rows)
    mine = [_Share.apply(x, us) if x.requires_grad else x[bounds(n, us)] for x in rows]
    with SyncedBatchNorm(us):
        made: Any = function(*mine)
    if isinstance(made, Tensor):
        return _Gathered.apply(made, n, us)  # type: ignore[no-any-return]
    whole = [None if part is None else _Gathered.apply(part, n, us) for part in made]
    return type(made)(*whole) if hasattr(made, "_fields") else tuple(whole)  # type: ignore[return-value]


def bounds(n: int, us: Processes) -> slice:
    """This process's rows of n: the first n mod W processes have one more."""
    least, more = divmod(n, us.world)
    start = us.rank * least + min(us.rank, more)
    return slice(start, start + least + (us.rank < more))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Between backward and step: the gradients of the whole batch in every process."""
    us = processes()
    if us.world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= us.world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def check_divides(batch_size: int) -> None:
    """Raises: ConfigError: a batch has fewer images than there are processes."""
    world = processes().world
    if batch_size < world:
        raise ConfigError(
            f"a batch of {batch_size} images cannot be divided between {world} processes; launch at most "
            f"{batch_size}, or give a larger batch_size"
        )


def parameters_of(optimizers: Iterable[torch.optim.Optimizer]) -> list[nn.Parameter]:
    """All that the optimizers change, in their order."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def same_state(modules: Mapping[str, nn.Module]) -> None:
    """The first process's numbers in all.

    They are equal anyway where the arithmetic repeats to the bit; a GPU's may not, and what no averaged gradient
    corrects (a queue, a generator's own steps) would drift apart.
    """
    if processes().world == 1:
        return
    for module in modules.values():
        for value in module.state_dict().values():
            sent = value.to(torch.uint8) if value.dtype == torch.bool else value.contiguous()
            torch.distributed.broadcast(sent, 0)
            value.copy_(sent)


def gathered(mine: Tensor, n: int, us: Processes) -> Tensor:
    """All processes' rows, (n, ...), of this one's."""
    most = -(-n // us.world)
    padded = mine.new_zeros(most, *mine.shape[1:])
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in range(us.world)]
    torch.distributed.all_gather(parts, padded)
    more = n % us.world
    return torch.cat([part if more == 0 or rank < more else part[:-1] for rank, part in enumerate(parts)])


class _Gathered(torch.autograd.Function):
    """This process's rows -> all; the gradient of the whole loss, known in full everywhere, goes back to the rows."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, n: int, us: Processes) -> Tensor:
        ctx.n, ctx.us = n, us
        return gathered(mine.detach(), n, us)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0][bounds(ctx.n, ctx.us)] * ctx.us.world, None, None


class _Share(torch.autograd.Function):
    """All rows -> this process's, where something learns from the gradient of the rows (a generator)."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, us: Processes) -> Tensor:
        ctx.n, ctx.us = len(whole), us
        return whole[bounds(len(whole), us)].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gathered(gradients[0].contiguous(), ctx.n, ctx.us) / ctx.us.world, None
