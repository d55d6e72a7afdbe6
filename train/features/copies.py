"""A copy of a user's torch model that a guard can keep: on one device, in float32, in eval mode, without gradients."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from guard.errors import ModelError

from .messages import first_line

log = logging.getLogger("ood_guard")


def own_copy(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """The copy; the model itself is left as it is. What torch.compile wrapped is unwrapped.

    Raises:
        ModelError: its weights have no values, or it cannot be copied.
    """
    _check_has_values(model)
    try:
        with _detached(model), torch.no_grad():  # of a TorchScript module the copy would remember its origin
            copied = copy.deepcopy(unwrapped(model))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {first_line(error)[:80]}); build it "
            "anew and load its weights with load_state_dict, or keep no tensors with a gradient in it"
        ) from error
    _unwrap_inside(copied)
    _free_mode(copied)
    try:
        copied = copied.float() if device is None else copied.to(device).float()
        for parameter in copied.parameters():  # TorchScript has no requires_grad_ of its own
            if parameter.is_floating_point():
                parameter.requires_grad_(False)
        return copied.eval()
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be moved to {device or 'float32'} in eval mode ({first_line(error)[:99]}); "
            "give a plain torch.nn.Module"
        ) from error


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile returned."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def is_scripted(model: nn.Module) -> bool:
    """Whether this is TorchScript, which runs no hooks of modules inside."""
    return isinstance(model, torch.jit.ScriptModule)


def quantised_layer(model: nn.Module) -> str:
    """The name of the first module that torch quantised; "" where there is none."""
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__ and "torch" in type(module).__module__:
            return name or type(module).__name__
    return ""


def say_what_does_not_export(model: nn.Module, kept: bool) -> None:
    """Warn before the work that a guard of this model stays in Python.

    Args:
        kept: whether a run folder is to be written.

    Raises:
        ModelError: it cannot be.
    """
    if kept and (layer := quantised_layer(model)):
        raise ModelError(
            f"layer {layer!r} is quantised by torch, whose packed weights neither a run folder nor ONNX can hold; omit "
            "out=, or give the float model, or an ONNX file with static quantisation (QDQ)"
        )
    if is_scripted(model):
        log.warning(
            "this is a TorchScript module: its guard runs, and can be neither exported to ONNX nor read inside; give "
            "the Python module it was made from where you need either"
        )
    elif layer := quantised_layer(model):
        log.warning(
            "layer %r is quantised by torch: the guard runs, and can be neither exported to ONNX nor saved; quantise "
            "an ONNX file instead",
            layer,
        )


@contextmanager
def _detached(model: nn.Module) -> Iterator[None]:
    """Tensors that a module computed and keeps (torch's older weight_norm), without their graph, which has no copy."""
    kept = []
    for module in model.modules():
        for name, value in list(vars(module).items()) if not is_scripted(module) else ():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                kept.append((module, name, value))
                vars(module)[name] = value.detach()
    try:
        yield
    finally:
        for module, name, value in kept:
            vars(module)[name] = value


def _check_has_values(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise ModelError(
                f"{type(model).__name__} has lazy layers that were never run ({name!r} has no shape yet): run it once, "
                "load its weights, and give it then"
            )
        if tensor.is_meta:
            raise ModelError(
                f"{type(model).__name__} is on the meta device, where weights have no values ({name!r}); load them: "
                "model.to_empty(device='cpu'), then model.load_state_dict(weights)"
            )


def _unwrap_inside(model: nn.Module) -> None:
    if is_scripted(model):
        return
    for parent in list(model.modules()):
        if is_scripted(parent):
            continue
        for name, child in parent.named_children():
            if unwrapped(child) is not child:
                setattr(parent, name, unwrapped(child))


def _free_mode(model: nn.Module) -> None:
    """torch.export's modules refuse `train` and `eval`, for their graph is of one mode; here they are no error."""
    for module in model.modules():
        for name in ("train", "eval"):
            module.__dict__.pop(name, None)
