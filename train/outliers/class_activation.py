"""Where the object is, as far as a classifier needs it: LayerCAM (Jiang et al., TIP 2021).

KIRBY erases it, FodFoM blurs it.

CAM = relu( sum_c relu(df_y/dA_c) * A_c )     A (D, h, w) the last block's output, y the predicted class

A is taken before the batch norm and ReLU that follow the last block of a WRN, as KIRBY's code does.
key region = CAM, scaled to [0, 1] and enlarged bilinearly, at least a threshold
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.errors import ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier

from ..classifiers.input import example_batch
from .base import PrepareContext

AT_ONCE = 256  # images


def layer_cam(feature_map: Tensor, gradient: Tensor) -> Tensor:
    """relu(sum_c relu(g_c) A_c), (N, h, w), from a map A and its gradient g, both (N, D, h, w) (Jiang et al. 2021)."""
    return (gradient.relu() * feature_map).sum(1).relu()


def unit_range(cam: Tensor) -> Tensor:
    """Each map (N, h, w) scaled to [0, 1]; a flat one becomes 0."""
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low).clamp_min(1e-12) * (high > low)


def as_grid(feature_map: Tensor) -> Tensor:
    """(N, D, h, w) from a map of that shape, or from tokens (N, L, D) of which the last h x h are patches."""
    if feature_map.ndim == 4:
        return feature_map
    side = math.isqrt(feature_map.shape[1])
    grid: Tensor = feature_map[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    return grid


def check_places(context: PrepareContext) -> None:
    """Refuse networks without class activation maps, trained or not.

    Raises:
        ModelError: naming what to use.
    """
    key_regions(context.module, example_batch(context.data.preprocess, context.device), 0.5)


def key_regions(module: GuardModule, images: Tensor, threshold: float) -> Tensor:
    """bool (N, H, W): where the LayerCAM of the class that `module` predicts is at least `threshold`."""
    classifier = module.classifier
    if not isinstance(classifier, Classifier):
        raise ModelError(
            f"class activation maps need the last feature map, which a {type(classifier).__name__} does not show; "
            "use a network that guard.train made"
        )
    module.eval()
    with torch.no_grad():
        feature_map = classifier.backbone.forward_body(module.normalise(images))
    with torch.enable_grad():  # a store is filled without gradients
        feature_map = feature_map.detach().float().requires_grad_()
        pooled = classifier.backbone.pool(classifier.backbone.finish(feature_map))
        logits = classifier.head(classifier.head.embed(pooled))
        (gradient,) = torch.autograd.grad(logits.amax(-1).sum(), feature_map)
    if feature_map.ndim == 3 and not as_grid(gradient).any():
        raise ModelError(
            "a class activation map needs the class's gradient at the places of the image, and this transformer's "
            "logits come from its class token alone; use a backbone that averages its patches, or a convolutional one"
        )
    cam = unit_range(layer_cam(as_grid(feature_map.detach()), as_grid(gradient)))
    return F.interpolate(cam[:, None], images.shape[1:3], mode="bilinear", align_corners=False)[:, 0] >= threshold
