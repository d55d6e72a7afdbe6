"""Checkpoints: one safetensors file with JSON in its header, replaced atomically once per epoch. No pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError, ConfigError, ModelError
from guard.record import Record

from .threads import pace

NAME = "checkpoint.safetensors"


def weights_bytes(module: nn.Module, dtype: torch.dtype | None = None) -> bytes:
    """A module's state as safetensors; its floating-point numbers in `dtype`, where one is given."""
    return save(_plain(module.state_dict(), dtype))


def _plain(tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Own, contiguous copies on the CPU: safetensors refuses tensors that share memory.

    Raises:
        ModelError: the state holds something else (packed weights of torch's quantised layers).
    """
    packed = next((key for key, value in tensors.items() if not isinstance(value, Tensor) or value.is_quantized), None)
    if packed is not None:
        raise ModelError(f"{packed!r} is no plain tensor (a quantised layer's packed weights), and cannot be saved")
    return {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None, copy=True).contiguous()
        for key, value in tensors.items()
    }


@dataclass
class Progress:
    """Where a run is: the next stage and epoch to train (epochs of earlier stages are done)."""

    stage: int = 0
    epoch: int = 0


def save_checkpoint(
    folder: Path,
    config: Record,
    progress: Progress,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> None:
    """Write the state at the end of an epoch; a run killed at any moment leaves the last whole one."""
    header = {"config": config.model_dump_json(), "stage": str(progress.stage), "epoch": str(progress.epoch)}
    header["threads"] = str(torch.get_num_threads())
    write_atomic(folder / NAME, save(gather(modules, optimizers), header))


def gather(modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of modules and optimizers, by name: copies on the CPU, for `put_back`."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, parameter in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # momentum_buffer of SGD; step, exp_avg, exp_avg_sq of Adam
                    tensors[f"optimizer.{name}/{index}.{key}"] = value
    return _plain(tensors)


def stopped_at(folder: Path) -> Progress | None:
    """Where the run in `folder` stopped, whatever its arguments; None where it has no checkpoint.

    Raises:
        ArtefactDamagedError: it cannot be read.
    """
    header = _header(folder / NAME)
    return None if header is None else _progress(header)


def read_progress(folder: Path, config: Record) -> Progress | None:
    """Where the run in `folder` stopped; None where it has no checkpoint.

    Raises:
        ConfigError: the checkpoint was made with other arguments (they are named).
        ArtefactDamagedError: it cannot be read.
    """
    header = _header(folder / NAME)
    if header is None:
        return None
    defaults = {name: field.default for name, field in type(config).model_fields.items() if not field.is_required()}
    saved, asked = defaults | json.loads(header["config"]), json.loads(config.model_dump_json())
    differing = [f"{k}: {saved.get(k)!r} then, {asked[k]!r} now" for k in asked if saved.get(k) != asked[k]]
    if differing:
        raise ConfigError(
            f"{folder} holds a run with other arguments ({'; '.join(differing)}); "
            "resume with the same ones, or choose another out folder"
        )
    return _progress(header)


def _header(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata())
    except SafetensorError as error:
        raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to start the run anew") from None


def _progress(header: dict[str, str]) -> Progress:
    return Progress(int(header["stage"]), int(header["epoch"]))


def load_checkpoint(folder: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Put the saved state into modules and optimizers (none where a new stage begins with fresh ones).

    The training continues with as many threads: sums depend on them.
    """
    with safe_open(folder / NAME, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping protocol)
        threads = (file.metadata() or {}).get("threads")
    if threads is not None and (chooser := pace()) is not None:
        chooser.keep(int(threads))
    put_back(tensors, modules, optimizers)


def put_back(
    tensors: dict[str, Tensor], modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    """What `gather` collected into modules and optimizers; what has no saved state stays as it is."""
    for name, module in modules.items():
        if state := _under(tensors, f"{name}/"):
            module.load_state_dict(state)
    for name, optimizer in optimizers.items():
        parameters = _parameters(optimizer)
        for key, value in _under(tensors, f"optimizer.{name}/").items():
            index, _, kind = key.partition(".")
            parameter = parameters[int(index)]
            # Adam counts its steps on the host
            optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
