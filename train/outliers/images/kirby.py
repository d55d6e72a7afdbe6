"""Key regions erased and painted over. Source: KIRBY, Kim et al., AAAI 2023 (methods.md B8).

    CAM = relu( sum_c relu(df_y/dA_c) * A_c )     LayerCAM: A (D, h, w) the last feature map, y the predicted class
    key region = CAM, scaled to [0, 1] and enlarged bilinearly, >= 0.3
    x~ = the key region filled from its border, by Telea's fast marching method of radius 5 (OpenCV)

The inpainting runs on the host, image by image, so these outliers are made for a store and not in training steps.
An image without a key region (or that is nothing else) would come out unchanged and is left out; another one of the
batch takes its place.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from guard.errors import ConfigError, MissingExtraError, ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier
from guard.record import Record

from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..published_augmentation import augment_outliers

AT_ONCE = 256


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
    return feature_map[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


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
        tapped = classifier.backbone.forward_map(module.normalise(images))
    with torch.enable_grad():  # a store is filled without gradients
        tapped = tapped.detach().float().requires_grad_()
        logits = classifier.head(classifier.head.embed(classifier.backbone.pool(tapped)))
        (gradient,) = torch.autograd.grad(logits.amax(-1).sum(), tapped)
    if tapped.ndim == 3 and not as_grid(gradient).any():
        raise ModelError(
            "a class activation map needs the class's gradient at the places of the image, and this transformer's "
            "logits come from its class token alone; use a backbone that averages its patches, or a convolutional one"
        )
    cam = unit_range(layer_cam(as_grid(tapped.detach()), as_grid(gradient)))
    return F.interpolate(cam[:, None], images.shape[1:3], mode="bilinear", align_corners=False)[:, 0] >= threshold


def inpaint(image: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    """uint8 (H, W, 1 or 3) with the pixels of `mask` (H, W) filled from around it (Telea 2004)."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV, which KIRBY paints with,", "train") from error
    filled = cv2.inpaint(
        np.ascontiguousarray(image.squeeze(-1) if image.shape[-1] == 1 else image),
        mask.astype(np.uint8),
        radius,
        cv2.INPAINT_TELEA,
    )
    return filled.reshape(image.shape)


@register_synthesiser
class KIRBY(ImageSynthesiser):
    """Images whose key region, found by LayerCAM, is inpainted from its surroundings (Kim et al., AAAI 2023)."""

    name: ClassVar[str] = "kirby"
    source: ClassVar[str] = "KIRBY, Kim et al., AAAI 2023"
    prepared: ClassVar[bool] = True  # nothing is trained, but the inpainting is too slow for training steps

    class Options(Record):
        """`cam_threshold`: from where on the activation is a key region; `radius`: of Telea's method, in pixels;
        `augment`: the official augmentation of outliers, with patches from outside the key region."""

        cam_threshold: float = Field(default=0.3, gt=0, lt=1)
        radius: float = Field(default=5.0, gt=0)
        augment: bool = False

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._module: list[GuardModule] = []  # in a list: no sub-module, it is the classifier's

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True

    def prepare(self, context: PrepareContext) -> None:
        self._module = [context.module]

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """Waits for the device: for stores."""
        if not self._module:
            raise ConfigError("synthesiser 'kirby' has no classifier yet; call prepare(context) first")
        device = batch.images.device
        order = torch.randperm(len(batch.images), generator=generator, device=device)
        masks = torch.cat([self._regions(batch.images[rows]) for rows in order.split(AT_ONCE)])
        covered = masks.flatten(1).float().mean(1)
        usable = torch.nonzero((covered > 0) & (covered < 1)).flatten()
        if not len(usable):
            raise ConfigError(
                f"none of {len(batch.images)} images has a key region at cam_threshold={self.options.cam_threshold}; "
                "lower it, or train the classifier for longer"
            )
        pick = usable[torch.arange(self.count, device=device) % len(usable)]  # again, where there are too few
        rows, masks = order[pick], masks[pick]
        painted = [
            inpaint(image, mask, self.options.radius)
            for image, mask in zip(batch.images[rows].cpu().numpy(), masks.cpu().numpy(), strict=True)
        ]
        images = torch.from_numpy(np.stack(painted)).to(device)
        if self.options.augment:
            images = augment_outliers(images, generator, masks)
        return Outliers(images, "key region inpainted", parents=batch.labels[rows][:, None])

    def _regions(self, images: Tensor) -> Tensor:
        return key_regions(self._module[0], images, self.options.cam_threshold)
