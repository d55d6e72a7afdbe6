"""Look into classifiers: find the penultimate features of any torch model, and stream features from data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from guard.errors import ModelError, UnknownNameError
from guard.graph.module import GuardModule
from guard.graph.outputs import HookedClassifier, Outputs

from ..engine.progress import progress_bar
from .choose_layers import watch_layers

if TYPE_CHECKING:
    from guard.data import ImageData


def hook_features(model: nn.Module, example: Tensor, layer: str | None = None) -> HookedClassifier:
    """A copy of `model` with its penultimate features in view; the model itself is left as it is.

    Args:
        model: normalised images (N, channels, H, W) -> logits (N, C).
        example: a batch of such images.
        layer: the module whose output is the feature vector; None finds the last linear layer that ran and takes its
            input.

    Raises:
        ModelError: it is not a classifier, or has no linear layer on the way to its logits.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, a timm name or a run folder, got {type(model).__name__}")
    device = example.device
    model = copy.deepcopy(model).to(device).float().eval().requires_grad_(False)
    check_logits(_run(model, example))
    if layer is not None:
        names = [name for name, _ in model.named_modules() if name]
        if layer not in names:
            raise UnknownNameError("layer", layer, names)
        hooked = HookedClassifier(model, layer, "output")
    else:
        hooked = HookedClassifier(model, _last_linear(model, example), "input")
    outputs = _run(hooked, example)
    if len(outputs.features) != len(example):
        raise ModelError(f"layer {hooked.layer!r} shows {len(outputs.features)} rows for {len(example)} images")
    hooked.num_features = outputs.features.shape[1]
    last = hooked.last_layer()
    if last is not None:  # a layer that fits in width may still be another one, or have an activation before it
        expected = nn.functional.linear(outputs.features, last.weight, last.bias)
        alike = expected.shape == outputs.logits.shape and torch.allclose(
            expected, outputs.logits, rtol=1e-3, atol=1e-4
        )
        hooked.linear = alike
    return hooked


def check_logits(output: Any) -> None:
    """A classifier's output is a tensor (N, C) that is not a row of probabilities."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"the model must return logits (N, C), got {got}; wrap it in a module that does")
    if output.shape[1] > 1 and (output >= 0).all() and ((output.sum(-1) - 1).abs() < 1e-4).all():
        raise ModelError(
            "the model returns probabilities (rows that sum to 1); it must return logits: omit its softmax, "
            "the guard's graph has its own"
        )


def _last_linear(model: nn.Module, example: Tensor) -> str:
    """Name of the last linear layer that runs; its output must be the model's own."""
    ran: list[tuple[str, Tensor]] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                ran.append((name, output))

            handles.append(module.register_forward_hook(note))
    try:
        logits = _run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    last = ", ".join(repr(name) for name, _ in list(model.named_modules())[-4:] if name)
    hint = f"name the module that gives the feature vector with features= (its last modules: {last})"
    if not ran:
        raise ModelError(f"{_name(model)} has no linear layer on the way to its logits; {hint}")
    name, output = ran[-1]
    if output.shape != logits.shape or not torch.equal(output, logits):
        raise ModelError(
            f"the last linear layer of {_name(model)}, {name!r}, does not give the model's output "
            f"(something follows it); {hint}"
        )
    return name


def _name(model: nn.Module) -> str:
    """What the user calls it: the class inside a wrapper of ours."""
    return type(getattr(model, "wrapped", model)).__name__


@torch.inference_mode()
def _run(model: nn.Module, example: Tensor) -> Any:
    try:
        return model(example)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model cannot take a batch of shape {tuple(example.shape)}: {first_line(error)}; "
            "give the size it was made for, e.g. image_size=224"
        ) from error


def first_line(error: Exception) -> str:
    """What torch said, without the pages that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


class FeatureBatch(NamedTuple):
    """Features (n, D), logits (n, C), labels (n,), map or None; float32 on the module's device."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    feature_map: Tensor | None


@torch.inference_mode()
def stream_outputs(
    module: GuardModule, data: ImageData, *, batch_size: int = 256, title: str = "features"
) -> Iterator[Outputs]:
    """Outputs (float32) of images in eval mode, without augmentation, in order."""
    device = module.scale.device
    module.eval()
    steps = -(-len(data) // batch_size)
    with progress_bar(title, steps) as advance:
        for images, _ in data.batches(batch_size):
            outputs = module.outputs(torch.from_numpy(np.ascontiguousarray(images)).to(device))
            yield Outputs(outputs.features.float(), outputs.logits.float(), outputs.feature_map)
            advance()


def stream_features(
    module: GuardModule, data: ImageData, *, batch_size: int = 256, title: str = "features"
) -> Iterator[FeatureBatch]:
    """`stream_outputs` of labelled images, with their labels."""
    assert data.labels is not None  # the caller loaded labelled images
    labels = torch.from_numpy(np.asarray(data.labels)).to(module.scale.device)
    done = 0
    for outputs in stream_outputs(module, data, batch_size=batch_size, title=title):
        rows = labels[done : done + len(outputs.features)]
        yield FeatureBatch(outputs.features, outputs.logits, rows, outputs.feature_map)
        done += len(rows)


def probe(module: GuardModule, data: ImageData) -> None:
    """Two images show whether the classifier gives what an unusual score needs, before the data is read."""
    images = torch.from_numpy(np.ascontiguousarray(data.take(np.arange(min(2, len(data)))))).to(module.scale.device)
    if "layer maps" in module.score.needs:
        watch_layers(module, images)
    if "input gradient" in module.score.needs:
        module.eval()
        module.score.perturb(module.normalise(images), module.look, 255 * module.scale)


def fit_score(module: GuardModule, data: ImageData, *, batch_size: int = 256) -> float:
    """Fit the module's score in one pass over in-distribution data; returns the classifier's accuracy on it."""
    score, classifier = module.score, module.classifier
    probe(module, data)
    correct = torch.zeros((), dtype=torch.int64, device=module.scale.device)
    with torch.inference_mode(False), torch.no_grad():
        begun = False
        for batch in stream_features(module, data, batch_size=batch_size, title=f"fit {score.name}"):
            if not begun:
                score.begin(batch.features.shape[1], batch.logits.shape[1], classifier.last_layer())
                begun = True
            score.update(batch.features, batch.logits, batch.labels, batch.feature_map)
            correct += (batch.logits.argmax(-1) == batch.labels).sum()
        score.finish()
    score.to(module.scale.device)
    return float(correct) / max(1, len(data))
