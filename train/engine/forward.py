"""A stage's passes through the classifier: in its precision, with gradients where they go through what it trains.

Several processes divide the images of each pass between them (`divided`), and all get the outputs of all images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier, Outputs
from guard.heads import Head

from .divided import divided
from .precision import mixed_precision

if TYPE_CHECKING:
    from ..methods.base import Stage


class Forward:
    """The classifier of `module` as `stage` trains it."""

    def __init__(self, module: GuardModule, stage: Stage, device: torch.device) -> None:
        self.module, self.stage = module, stage
        self.autocast = mixed_precision(device)
        self._shows_map = any(regulariser.reads_map for regulariser in stage.regularisers)

    @property
    def head(self) -> Head:
        """The classifier's head."""
        return self._classifier().head

    def outputs(self, images: Tensor) -> Outputs:
        """The outputs of uint8 images (n, H, W, channels)."""
        if self.stage.trains == "head":
            return self.head_outputs(*self.pooled(images))
        with self.autocast(), torch.set_grad_enabled(self.stage.trains == "classifier"):
            return divided(lambda x: self._shown(self.module.classifier(self._normalised(x))), images)

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Of uint8 images by a network like the classifier, such as its average."""
        with self.autocast():
            logits: Tensor = divided(lambda x: network(self._normalised(x)).logits, images)
            return logits

    @torch.no_grad()
    def pooled(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a frozen backbone gives the head: pooled features (n, P), and the map they come from."""
        backbone = self._classifier().backbone

        def pooled(x: Tensor) -> tuple[Tensor, Tensor | None]:
            feature_map = backbone.forward_map(self._normalised(x))
            return backbone.pool(feature_map), feature_map if self._shows_map else None

        with self.autocast():
            return divided(pooled, images)

    @torch.no_grad()
    def head_logits(self, network: Classifier, pooled: Tensor) -> Tensor:
        """`logits` from pooled features, which may be in bf16."""
        with self.autocast():
            logits: Tensor = network.head(network.head.embed(pooled))
            return logits

    def head_outputs(self, pooled: Tensor, feature_map: Tensor | None = None) -> Outputs:
        """What the head makes of pooled features, with its gradients.

        An autocast of its own: one that `pooled` shared would reuse weights that were cast without gradients.
        """
        with self.autocast():
            features = self.head.embed(pooled)
            return Outputs(features, self.head(features), feature_map)

    def feature_outputs(self, features: Tensor) -> Outputs:
        """Features (n, D) with their logits."""
        with self.autocast():
            return Outputs(features, self.head(features), None)

    def _shown(self, outputs: Outputs) -> Outputs:
        """Without the map where no loss reads it, for it is large."""
        return outputs if self._shows_map else outputs._replace(feature_map=None)

    def _normalised(self, images: Tensor) -> Tensor:
        return self.module.normalise(images).contiguous(memory_format=torch.channels_last)

    def _classifier(self) -> Classifier:
        classifier = self.module.classifier
        assert isinstance(classifier, Classifier)  # guard.train builds no other
        return classifier
