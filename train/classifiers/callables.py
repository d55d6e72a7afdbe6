"""A classifier given as two callables, for code that is not a single module: ``guard.fit((features, logits), data)``.

    features   normalised images (N, channels, H, W) -> (N, D); maps (N, D, h, w) are averaged
    logits     features (N, D) -> (N, C)

Each is a module, a method of one, or a function of torch tensors. Modules are copied, frozen, exported and saved with
the guard; a plain function is called as it is, so what it closes over stays the caller's (and must be on the guard's
device), and a run folder is loaded with the same two: ``Guard.from_pretrained(folder, model=(features, logits))``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from guard.errors import ConfigError, ModelError
from guard.graph.answers import BINARY, NORMALISED, both_classes, to_logits
from guard.graph.outputs import FeatureClassifier, Outputs, as_vector
from guard.heads import LastLayer
from guard.requests import FitRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores.base import Need

from ..features.answers import check_values
from ..features.copies import unwrapped
from ..features.messages import first_line
from .base import GivenClassifier
from .fresh import CUSTOM
from .input import example_batch, normalised
from .torch_models import of_module

KIND = "callables"  # in a manifest's backbone_options


class TwoCallables(FeatureClassifier):
    """The outputs of (features, logits).

    Attributes:
        linear: name of the linear layer inside `logits` whose answer its answer is; None where there is none.
        lacks: what it cannot show: "layer maps" of a plain function; the "input gradient" where features has none.
    """

    def __init__(
        self, features: Callable[[Tensor], Any], logits: Callable[[Tensor], Any], outputs: str = "auto"
    ) -> None:
        super().__init__()
        features, logits = _copied(features, logits)
        self.outputs = outputs  # what `logits` returns (`guard.graph.answers`)
        self.features = _as_module(features)
        self.logits = _as_module(logits)
        self.num_features = 0  # and the rest: set by `learn_from` or from a manifest
        self.linear: str | None = None
        self.lacks: frozenset[Need] = frozenset()
        self.float().eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Outputs:
        shown = _checked("features", self.features(x), len(x))
        if shown.ndim not in (2, 3, 4):
            raise ModelError(
                f"features, the first of the two callables, returned shape {tuple(shown.shape)}; {_SHAPES}"
            )
        features = as_vector(shown, "features")
        return Outputs(features, to_logits(self.numbers(features), self.outputs), None)

    def numbers(self, features: Tensor) -> Tensor:
        """What `logits` returns: (N, C), or one column of a binary classifier."""
        numbers = _checked("logits", self.logits(features), len(features))
        if numbers.ndim != 2 and not (numbers.ndim == 1 and self.outputs in BINARY):
            raise ModelError(
                f"logits, the second of the two callables, returned shape {tuple(numbers.shape)}; {_SHAPES}"
            )
        return numbers

    def last_layer(self) -> LastLayer | None:
        if self.linear is None:
            return None
        layer = self.logits.get_submodule(self.linear)
        assert isinstance(layer, nn.Linear)  # `learn_from` found it
        return both_classes(LastLayer(layer.weight.detach(), None if layer.bias is None else layer.bias.detach()))

    def shows(self) -> frozenset[Need]:
        return super().shows() - self.lacks

    def learn_from(self, example: Tensor) -> None:
        """Learn from a batch of normalised images what the two show.

        Raises:
            ModelError: one of them fails, or returns something else; the message says which.
        """
        with torch.no_grad():
            outputs = _run(self, example)
        numbers = self.numbers(outputs.features)
        check_values(numbers, self.outputs, "logits, the second of the two callables,")
        self.num_features = outputs.features.shape[1]
        self.linear = None if self.outputs in NORMALISED else _linear_layer(self.logits, outputs)
        lacks: set[Need] = {"layer maps"} if isinstance(self.features, _Function) else set()
        if not _has_gradient(self, example):
            lacks.add("input gradient")
        self.lacks = frozenset(lacks)


class _Function(nn.Module):
    """A plain function where a module is wanted."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class _Method(nn.Module):
    """A method of a module, such as timm's `model.forward_features`, so that the module's weights come along."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner = owner
        self.name = name

    def forward(self, x: Tensor) -> Any:
        return getattr(self.owner, self.name)(x)


def is_two_callables(model: Any) -> bool:
    """Whether this is a pair of callables (and not, say, a pair of arrays)."""
    return isinstance(model, (tuple, list)) and len(model) == 2 and all(callable(part) for part in model)


def of_callables(model: Any, request: FitRequest) -> GivenClassifier:
    """The two as one classifier, which noise of the input's size has shown.

    Raises:
        ConfigError: `features=`, which names a layer, was given too.
        ModelError: as `TwoCallables.learn_from`.
    """
    if request.features is not None:
        raise ConfigError(
            f"features={request.features!r} names a layer; the first of the two callables gives them already"
        )
    device = resolve_device(request.device)
    classifier = TwoCallables(model[0], model[1], outputs=request.outputs).to(device)
    base = of_module(classifier, request)
    classifier.learn_from(normalised(example_batch(base.preprocess, device), base.normalisation))
    return GivenClassifier(
        classifier,
        base.preprocess,
        base.normalisation,
        CUSTOM,
        data=base.data,
        rebuild={
            "kind": KIND,
            "num_features": classifier.num_features,
            "linear": classifier.linear,
            "lacks": sorted(classifier.lacks),
            **({} if request.outputs == "auto" else {"outputs": request.outputs}),
        },
    )


def rebuilt(options: dict[str, Any], model: Any) -> TwoCallables:
    """The classifier of a run folder, from the same two callables.

    Raises:
        ModelError: they were not given.
    """
    if not is_two_callables(model):
        raise ModelError(
            "this guard was fitted on two callables, which a run folder cannot hold; pass them: "
            "Guard.from_pretrained(folder, model=(features, logits)), or load the exported .onnx file"
        )
    classifier = TwoCallables(model[0], model[1], outputs=options.get("outputs", "auto"))
    classifier.num_features, classifier.linear = options["num_features"], options["linear"]
    classifier.lacks = frozenset(options["lacks"])
    return classifier


def _copied(*parts: Callable[[Tensor], Any]) -> tuple[Callable[[Tensor], Any], ...]:
    """Copies, made together, for the parts may share a module; what torch.compile wrapped is unwrapped."""
    try:
        return copy.deepcopy(tuple(unwrapped(part) if isinstance(part, nn.Module) else part for part in parts))
    except Exception as error:
        raise ModelError(
            f"the two callables cannot be copied ({type(error).__name__}: {first_line(error)[:120]}); keep no tensors "
            "with a gradient in their modules"
        ) from error


def _as_module(given: Callable[[Tensor], Any]) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    owner = getattr(given, "__self__", None)
    if isinstance(owner, nn.Module):
        return _Method(owner, given.__name__)
    return _Function(given)


_SHAPES = "features (N, D) or a map (N, D, h, w), logits (N, C)"


def _checked(which: str, output: Any, rows: int) -> Tensor:
    """A float32 tensor with a row per image."""
    place = {"features": "first", "logits": "second"}[which]
    where = f"{which}, the {place} of the two callables, returned"
    if not isinstance(output, Tensor):
        raise ModelError(f"{where} a {type(output).__name__}; it must return a torch tensor: {_SHAPES}")
    if output.dtype != torch.float32:
        raise ModelError(f"{where} {str(output.dtype).removeprefix('torch.')}; it must compute in float32 (.float())")
    if output.ndim == 0 or len(output) != rows:
        raise ModelError(f"{where} shape {tuple(output.shape)} for {rows} images; {_SHAPES}")
    return output


def _run(classifier: TwoCallables, example: Tensor) -> Outputs:
    which, given = "features, the first", f"images {tuple(example.shape)}"
    try:
        shown = _checked("features", classifier.features(example), len(example))
        if shown.ndim in (2, 3, 4):
            vector = as_vector(shown, "features")
            which, given = "logits, the second", f"features {tuple(vector.shape)}"
            classifier.logits(vector)
        outputs: Outputs = classifier(example)
        return outputs
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{which} of the two callables, fails on {given}: {type(error).__name__}: {first_line(error)}"
        ) from error


def _linear_layer(logits: nn.Module, outputs: Outputs) -> str | None:
    """The one linear layer in `logits`, where it alone makes the logits of the features: checked on numbers."""
    layers = [(name, module) for name, module in logits.named_modules() if isinstance(module, nn.Linear)]
    if isinstance(logits, _Method) or len(layers) != 1 or layers[0][1].in_features != outputs.features.shape[1]:
        return None
    name, layer = layers[0]
    last = both_classes(LastLayer(layer.weight, layer.bias))
    with torch.no_grad():
        expected = nn.functional.linear(outputs.features, last.weight, last.bias)
    alike = expected.shape == outputs.logits.shape and torch.allclose(expected, outputs.logits, rtol=1e-4, atol=1e-5)
    return name if alike else None


def _has_gradient(classifier: TwoCallables, example: Tensor) -> bool:
    with torch.enable_grad():
        outputs: Outputs = classifier(example.clone().requires_grad_())
        return outputs.logits.requires_grad
