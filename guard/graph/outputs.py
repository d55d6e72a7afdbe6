"""What a classifier shows to scores, and the classifiers that show it: `Outputs`, `FeatureClassifier` and its kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ..errors import ModelError
from ..heads import Head, LastLayer
from .answers import LOGITS, Reading, both_classes

if TYPE_CHECKING:
    from ..scores.base import Need

_NAME_ONE = "name the module whose output is the feature vector with features="


class Outputs(NamedTuple):
    """What a classifier shows: pooled features (N, D), logits (N, C), and the last feature map (N, ...) or None."""

    features: Tensor
    logits: Tensor
    feature_map: Tensor | None


class Backbone(nn.Module):
    """normalised images (N, channels, H, W) -> features (N, D), in two steps so that the map can be read."""

    num_features: int

    def forward_map(self, x: Tensor) -> Tensor:
        """The last feature map (N, D, h, w), or tokens (N, L, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_map")

    def forward_body(self, x: Tensor) -> Tensor:
        """What the last block gives, before the last norm and ReLU where these follow the blocks; else the map."""
        return self.forward_map(x)

    def finish(self, body: Tensor) -> Tensor:
        """The map from what `forward_body` gives."""
        return body

    def pool(self, feature_map: Tensor) -> Tensor:
        """(N, D) from the map."""
        raise NotImplementedError(f"{type(self).__name__} must define pool")

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.forward_map(x))


class FeatureClassifier(nn.Module):
    """Any classifier that shows its outputs: normalised images (N, channels, H, W) -> `Outputs`."""

    num_features: int

    def forward(self, x: Tensor) -> Outputs:
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def last_layer(self) -> LastLayer | None:
        """The weights between features and logits, for fitting scores; None where there is no such linear layer."""
        raise NotImplementedError(f"{type(self).__name__} must define last_layer")

    def layer_root(self) -> nn.Module:
        """The module among whose submodules users name layers (`Score.layers`)."""
        return self

    def shows(self) -> frozenset[Need]:
        """Which of the things that scores need this classifier can give."""
        always: frozenset[Need] = frozenset(
            ("logits", "features", "layer maps", "input gradient", "turned images", "mirror image")
        )
        return always if self.last_layer() is None else always | {"weights"}

    def why_not(self, need: Need) -> str:
        """Why `shows` leaves `need` out, and what to do instead, as the end of a sentence."""
        if need == "weights":
            return "use 'knn' or 'mahalanobis', which read features alone"
        if need == "extra class":
            return "train one with guard.train(..., head='c_plus_1')"
        if need == "feature map":
            return "only classifiers that guard.train made show it"
        return f"a {type(self).__name__} does not show it"


class Classifier(FeatureClassifier):
    """A backbone and a head: what `guard.train` trains. Its features are what the head makes of the pooled ones."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_features = head.num_features

    def forward(self, x: Tensor) -> Outputs:
        feature_map = self.backbone.forward_map(x)
        features = self.head.embed(self.backbone.pool(feature_map))
        return Outputs(features, self.head(features), feature_map)

    def last_layer(self) -> LastLayer:
        return self.head.last_layer()

    def shows(self) -> frozenset[Need]:
        own: set[Need] = {"feature map"} if self.last_layer().reject is None else {"feature map", "extra class"}
        return super().shows() | own


class HookedClassifier(FeatureClassifier):
    """Any torch classifier, untouched: a hook shows the input of its last linear layer, or a named module's output.

    Args:
        model: normalised images (N, channels, H, W) -> what holds the logits (N, C); it gets a copy of the images, for
            some models work in place.
        layer: name of the module to read; "" where the features are nowhere to be found, which leaves logits.
        side: "input" (of a linear layer or a 1x1 convolution) or "output" (of any module); maps (N, D, h, w) are
            averaged, tokens take the first of (N, L, D).
        reading: how the logits are read from what the model returns.
    """

    def __init__(self, model: nn.Module, layer: str, side: str, reading: Reading = LOGITS) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.side = side
        self.reading = reading
        self.num_features = 0  # set by train.features.extract.hook_features, which has seen a batch, as is
        self.linear = True  # whether the logits are a linear layer of the features
        self.lacks: dict[Need, str] = {} if layer else {"features": _NAME_ONE}  # why, as the end of a sentence

    def forward(self, x: Tensor) -> Outputs:
        x = x.clone()
        if not self.layer:
            logits = self.reading.logits(self.model(x))
            return Outputs(logits.new_zeros(len(logits), 0), logits, None)
        seen: list[Tensor] = []

        def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0].clone())  # a dropout or an activation may work in place

        def keep_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            if not isinstance(output, Tensor):
                kind = type(output).__name__
                raise ModelError(f"layer {self.layer!r} returns a {kind}; features need one that returns a tensor")
            seen.append(output.clone())  # the next layer may work in place

        module = self.model.get_submodule(self.layer)
        if self.side == "input":
            handle = module.register_forward_pre_hook(keep_input)
        else:
            handle = module.register_forward_hook(keep_output)
        try:
            logits = self.reading.logits(self.model(x))
        finally:
            handle.remove()
        if not seen:
            raise ModelError(f"the model did not run its layer {self.layer!r}; name another with features=")
        return Outputs(as_vector(seen[-1], self.layer).float(), logits, None)

    def layer_root(self) -> nn.Module:
        return self.model

    def last_layer(self) -> LastLayer | None:
        """The weights of the linear layer that is read; for a named module, of the last linear layer of its width."""
        every = self.model.modules() if self.layer else ()
        layers: list[nn.Linear | nn.Conv2d] = [m for m in every if isinstance(m, nn.Linear)]
        if self.side == "input":
            found = self.model.get_submodule(self.layer)
            layers = [found] if isinstance(found, (nn.Linear, nn.Conv2d)) else []
        fitting = [m for m in layers if m.weight.shape[1] == self.num_features]
        if not fitting or not self.linear:
            return None
        weight, bias = fitting[-1].weight.detach().flatten(1), fitting[-1].bias
        return both_classes(LastLayer(weight, None if bias is None else bias.detach()))

    def shows(self) -> frozenset[Need]:
        return super().shows() - set(self.lacks)

    def why_not(self, need: Need) -> str:
        return self.lacks.get(need) or super().why_not(need)


def as_vector(shown: Tensor, layer: str) -> Tensor:
    """(N, D) from what a layer showed."""
    if shown.ndim == 2:
        return shown
    if shown.ndim == 4:
        return shown.mean((2, 3))
    if shown.ndim == 3:
        return shown[:, 0]
    raise ModelError(f"layer {layer!r} shows a tensor of {shown.ndim} dimensions; features need 2, 3 or 4")
