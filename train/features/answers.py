"""Where the logits are in what a torch model returns; or what it returns instead, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guard.errors import ModelError
from guard.graph.answers import BINARY, Reading, picked

from .values import wrong

WRAP = "wrap it in a module that does"
_LOGITS = ("logits", "out", "output", "outputs", "pred", "predictions", "scores")


def reading_of(answer: Any, n: int, outputs: str, model: nn.Module | None = None) -> Reading:
    """How the logits are read from `answer`, what a model returned for n images.

    Args:
        outputs: what `guard.fit` was told they are; "auto" for logits.
        model: where a key is named in the errors; unused otherwise.

    Raises:
        ModelError: there are none in it; the sentence says what there is, and the fix.
    """
    place = None if isinstance(answer, Tensor) else _place(answer, n)
    try:
        check_shape(picked(answer, place), n, outputs)
    except (KeyError, IndexError, TypeError):
        raise ModelError(f"the model must return logits (N, C), got {_kind(answer)}; {WRAP}") from None
    return Reading(place, "logits" if outputs == "auto" else outputs)


def check_values(numbers: Tensor, outputs: str, who: str = "the model", *, sigmoid: bool | None = None) -> None:
    """Refuse numbers (n, C), or (n,) of one column, that are not what `outputs` says ("auto": logits).

    Raises:
        ModelError: with what they are, and the fix.
    """
    numbers = numbers.float()
    reason = wrong(numbers.flatten(1) if numbers.ndim > 1 else numbers[:, None], outputs, sigmoid=sigmoid)
    if reason:
        raise ModelError(f"{who} {reason}")


def check_shape(numbers: Tensor, n: int, outputs: str) -> None:
    """Refuse what is not a row of numbers per image: (n, C), (n, C, 1, 1), or (n,) of a binary classifier."""
    shape = tuple(numbers.shape)
    one = len(shape) == 1 and shape[0] == n
    if numbers.is_complex() or numbers.dtype == torch.bool or not (numbers.is_floating_point() or numbers.is_complex()):
        kind = str(numbers.dtype).removeprefix("torch.")
        what = "class indices (an argmax)" if one or shape == (n, 1) else "whole numbers"
        raise ModelError(f"the model returns {what}, {kind} {shape}, not logits (N, C); give what its argmax reads")
    if one and outputs not in BINARY:
        raise ModelError(
            f"the model must return logits (N, C), got {shape}: one number per image, as a classifier of two classes "
            "gives; say outputs='sigmoid' (the probability of the second class) or outputs='binary' (its logit)"
        )
    if one or (len(shape) >= 2 and shape[0] == n and numbers.numel() == n * shape[1]):
        return
    if len(shape) == 4 and shape[0] == n:
        raise ModelError(
            f"the model must return logits (N, C), got {shape}: a map of answers for every place, as segmentation "
            "gives, or features; give a classifier of whole images, e.g. with the average over the map behind it"
        )
    if len(shape) == 3 and shape[0] == n:
        raise ModelError(
            f"the model must return logits (N, C), got {shape}: a row per token or box; give a classifier of whole "
            "images, e.g. with the average over the tokens behind it"
        )
    raise ModelError(f"the model must return logits (N, C), got {shape} for {n} images; {WRAP}")


def is_sigmoid(model: nn.Module, x: Tensor, numbers: Tensor) -> bool | None:
    """Whether numbers in [0, 1] are the sigmoid of what one of the model's modules gave; None where nothing says so."""
    if not ((numbers >= 0) & (numbers <= 1)).all():
        return False
    found: list[bool] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.numel() == numbers.numel() and output.is_floating_point():
            before = output.detach().float().reshape(numbers.shape)
            found.append(torch.allclose(before.sigmoid(), numbers, atol=1e-5) and not torch.equal(before, numbers))

    handles = [module.register_forward_hook(note) for module in model.modules() if not _scripted(module)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return True if any(found) else None


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _place(answer: Any, n: int) -> str | int:
    """The only tensor in a dict, a `ModelOutput`, a tuple or a list that could be logits."""
    if isinstance(answer, Mapping):
        items: dict[Any, Any] = dict(answer)
    elif hasattr(answer, "_fields"):
        items = answer._asdict()
    elif isinstance(answer, (tuple, list)):
        items = dict(enumerate(answer))
    elif isinstance(getattr(answer, "logits", None), Tensor):
        return "logits"
    else:
        raise ModelError(f"the model must return logits (N, C), got {_kind(answer)}; {WRAP}")
    if not items or any(isinstance(item, Mapping) and "boxes" in item for item in items.values()) or "boxes" in items:
        raise ModelError(
            f"the model must return logits (N, C), got {_kind(answer)}"
            + (" of boxes: it detects objects; give a classifier of whole images" if items else f"; {WRAP}")
        )
    rows = [
        key
        for key, item in items.items()
        if isinstance(item, Tensor) and item.is_floating_point() and item.ndim >= 2 and len(item) == n
        if item.numel() == n * item.shape[1]
    ]
    named = [key for key in _LOGITS if key in rows]
    if named or len(rows) == 1:
        return named[0] if named else rows[0]
    found = ", ".join(f"{key} {_kind(item)}" for key, item in list(items.items())[:4])
    raise ModelError(
        f"the model must return logits (N, C), got {type(answer).__name__} ({found}); wrap it in a module that returns "
        "its logits alone"
    )


def _kind(thing: Any) -> str:
    return str(tuple(thing.shape)) if isinstance(thing, Tensor) else type(thing).__name__
