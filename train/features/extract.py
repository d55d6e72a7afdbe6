"""Look into classifiers: find the penultimate features of any torch model, and stream features from data."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from guard.errors import ModelError, UnknownNameError
from guard.graph.answers import NORMALISED, Reading, picked
from guard.graph.module import GuardModule
from guard.graph.outputs import HookedClassifier, Outputs
from guard.heads import LastLayer

from ..engine.progress import progress_bar
from .answers import check_values, is_sigmoid, reading_of
from .choose_layers import watch_layers
from .copies import is_scripted, own_copy
from .messages import cut, first_line

if TYPE_CHECKING:
    from guard.data import ImageData

log = logging.getLogger("ood_guard")


def hook_features(
    model: nn.Module, example: Tensor, layer: str | None = None, outputs: str = "auto"
) -> HookedClassifier:
    """A copy of `model` with its penultimate features in view, where it has such; the model itself is left as it is.

    Args:
        model: normalised images (N, channels, H, W) -> logits (N, C), alone or among other things.
        example: a batch of such images, in-distribution ones where there are any: the numbers tell what they are.
        layer: the module whose output is the feature vector; None finds the last linear layer (or 1x1 convolution)
            that ran and takes its input.
        outputs: what the model's numbers are (`guard.graph.answers`); "auto" is logits, and refused where they are not.

    Raises:
        ModelError: it is not a classifier; the sentence says what it is.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, a timm name or a run folder, got {type(model).__name__}")
    model = own_copy(model, example.device)
    answer = _run(model, example)
    reading = reading_of(answer, len(example), outputs)
    numbers = picked(answer, reading.place).float()
    if torch.equal(numbers.bfloat16().float(), numbers) and numbers.any():
        log.warning("the model computes in bfloat16 (autocast?): its guard runs, and cannot be exported to ONNX")
    sigmoid = is_sigmoid(model, example.clone(), numbers) if outputs == "auto" else None
    check_values(numbers, outputs, sigmoid=sigmoid)
    if layer is not None:
        names = [name for name, _ in model.named_modules() if name]
        if is_scripted(model) and layer in names:
            raise ModelError(f"features={layer!r}: {_SCRIPTED}")
        if layer not in names:
            raise UnknownNameError("layer", layer, names)
        hooked = HookedClassifier(model, layer, "output", reading)
    else:
        hooked = _with_last_linear(model, example, reading)
    outputs_seen = _run(hooked, example)
    if hooked.layer and len(outputs_seen.features) != len(example):
        raise ModelError(f"layer {hooked.layer!r} shows {len(outputs_seen.features)} rows for {len(example)} images")
    hooked.num_features = outputs_seen.features.shape[1]
    last = hooked.last_layer()  # one that fits in width may still be another, or have an activation before it
    alike = last is not None and _gives(last, outputs_seen, reading)
    hooked.linear = alike and reading.outputs not in NORMALISED
    if hooked.layer and layer is None and not alike:
        return _without_features(hooked, _followed(model, hooked.layer))
    return hooked


_SCRIPTED = "TorchScript shows no layer inside; give the Python module it was made from"


def _with_last_linear(model: nn.Module, example: Tensor, reading: Reading) -> HookedClassifier:
    name = None if is_scripted(model) else _last_linear(model, example)
    if name is not None:
        return HookedClassifier(model, name, "input", reading)
    hooked = HookedClassifier(model, "", "", reading)
    if not is_scripted(model):
        return _without_features(hooked, f"{_name(model)} has no linear layer on the way to its logits")
    hooked.lacks = {"features": _SCRIPTED, "weights": _SCRIPTED, "layer maps": _SCRIPTED}
    return hooked


def _without_features(hooked: HookedClassifier, reason: str) -> HookedClassifier:
    """The same without features, and why: scores of logits alone remain."""
    last = cut(", ".join(repr(name) for name, _ in list(hooked.model.named_modules())[-3:] if name), 70)
    hint = f"name the module that gives the vector with features= (its last modules: {last})"
    bare = HookedClassifier(hooked.model, "", "", hooked.reading)
    bare.lacks = dict.fromkeys(("features", "weights"), f"{reason}; {hint}")
    return bare


def _followed(model: nn.Module, layer: str) -> str:
    return f"the last linear layer of {_name(model)[:40]}, {layer[:40]!r}, does not give its output (something follows)"


def _gives(last: LastLayer, outputs: Outputs, reading: Reading) -> bool:
    """Whether this layer turns the features into the logits, up to rounding: float32's, or bfloat16's inside; and up to
    a constant of each image where that was lost."""
    expected = nn.functional.linear(outputs.features, last.weight.float(), last.bias)
    if expected.shape != outputs.logits.shape:
        return False
    if reading.outputs in NORMALISED:
        expected = expected.log_softmax(-1)
    half = torch.equal(outputs.logits.bfloat16().float(), outputs.logits)  # autocast inside
    size = max(1e-4, float(outputs.logits.abs().max()))
    return bool((expected - outputs.logits).abs().max() <= (2e-2 if half else 1e-3) * size)


def _last_linear(model: nn.Module, example: Tensor) -> str | None:
    """Name of the linear layer or 1x1 convolution that ran last; None where none did."""
    ran: list[str] = []
    handles = []
    for name, module in model.named_modules():
        flat = isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1
        if isinstance(module, nn.Linear) or flat:

            def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                ran.append(name)

            handles.append(module.register_forward_hook(note))
    try:
        _run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None


def _name(model: nn.Module) -> str:
    """What the user calls it: the class inside a wrapper of ours."""
    return type(getattr(model, "wrapped", model)).__name__


@torch.inference_mode()
def _run(model: nn.Module, example: Tensor) -> Any:
    """The answer to a copy of the images, for some models work in place."""
    try:
        return model(example.clone())
    except ModelError:
        raise
    except Exception as error:
        shape, said = tuple(example.shape), cut(first_line(error), 120)
        if len(example) > 1 and _takes(model, example[:1]):
            raise ModelError(
                f"the model takes 1 image and not {len(example)} together ({said}); its batch is fixed: trace, export "
                "or write it with a dynamic one"
            ) from error
        if any(word in said for word in ("dtype", "scalar type", "Half", "Double", "BFloat16", "double")):
            raise ModelError(
                f"the model cannot take float32 images ({said}); a guard runs it in float32: leave out what casts to "
                "another type inside it (.half(), .double(), .to(dtype))"
            ) from error
        fix = "give the size it was made for, e.g. image_size=224, and a model that takes any number of images"
        if taken := re.search(r"to have ([13]) channels", said):  # torch's convolution
            fix = f"say in_chans={taken[1]}, for that is what its first convolution takes"
        raise ModelError(f"the model cannot take a batch of shape {shape}: {said}; {fix}") from error


def _takes(model: nn.Module, example: Tensor) -> bool:
    try:
        model(example.clone())
    except Exception:  # whatever it says was said of the larger batch
        return False
    return True


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
        chosen = not module.score.layers
        watch_layers(module, images)
        if chosen:
            log.info("score %s reads the layers %s", module.score.label, ", ".join(module.score.layers))
    if "input gradient" in module.score.needs:
        module.eval()
        module.score.perturb(module.normalise(images), module.look, 255 * module.scale)


def fit_score(module: GuardModule, data: ImageData, *, batch_size: int = 256) -> float:
    """Fit the module's score in one pass over in-distribution data; returns the classifier's accuracy on it.

    Raises:
        ModelError: features that are NaN or infinite, or logits that are NaN.
    """
    score, classifier = module.score, module.classifier
    probe(module, data)
    correct, broken = torch.zeros(2, dtype=torch.int64, device=module.scale.device)
    with torch.inference_mode(False), torch.no_grad():
        begun = False
        for batch in stream_features(module, data, batch_size=batch_size, title=f"fit {score.name}"):
            if not begun:
                score.begin(batch.features.shape[1], batch.logits.shape[1], classifier.last_layer())
                begun = True
            score.update(batch.features, batch.logits, batch.labels, batch.feature_map)
            correct += (batch.logits.argmax(-1) == batch.labels).sum()
            broken += (~batch.features.isfinite().all(-1) | batch.logits.isnan().any(-1)).sum()
        if broken:
            raise ModelError(
                f"the classifier's features are NaN or infinite, or its logits NaN, for {int(broken)} of {len(data)} "
                "images; check its weights (a training that diverged leaves such), and its mean= and std="
            )
        score.finish()
    score.to(module.scale.device)
    return float(correct) / max(1, len(data))
