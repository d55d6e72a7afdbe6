"""KIRBY, key feature replacement. Source: Kim et al., AAAI 2023.

    key region = LayerCAM of the predicted class, scaled to [0, 1], >= 0.3      train.outliers.class_activation
                 of the last block's output, before a WRN's last norm and ReLU
    x~ = x with the key region filled from its border, by Telea's fast marching method of radius 5 (OpenCV)
    L = mean binary cross-entropy of B(F(x)), or cross-entropy of C + 1 classes, F frozen

The official default is the C + 1 head with few outliers: ``head_kind="multiclass", ratio=0.06, hidden=2048`` and
``tap="map"``. Here the head is the binary one on pooled features, as for the other outliers, so that methods compare.
The official batches hold 64 images; here they are as large as the classifier's.

The inpainting runs on the host, image by image, so these outliers are made for a store and not in training steps. An
image without a key region (or that is nothing else) would come out unchanged and is left out; another one of the batch
takes its place.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from guard.errors import ConfigError, MissingExtraError
from guard.graph.module import GuardModule
from guard.record import Record, option

from ..cache.held import Held
from ..outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..outliers.class_activation import AT_ONCE, check_places, key_regions
from ..outliers.published_augmentation import augment_outliers
from .base import MethodContext, register
from .from_store import StoredRejection, StoredRejectionOptions


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


class InpaintingOptions(Record):
    """The paper's defaults."""

    cam_threshold: float = option(
        0.3, "From which share of its maximum on the class activation map is a key region.", common=True, gt=0, lt=1
    )
    radius: float = option(5.0, "Radius of Telea's inpainting, in pixels.", gt=0)
    augment_outliers: bool = option(
        False, "Augment outliers as the official code does, with patches from outside the key region."
    )


@register_synthesiser
class KeyRegionInpainting(ImageSynthesiser):
    """Images whose key region, found by LayerCAM, is inpainted from its surroundings (Kim et al., AAAI 2023)."""

    name: ClassVar[str] = "kirby"
    source: ClassVar[str] = "KIRBY, Kim et al., AAAI 2023"
    revision: ClassVar[int] = 2  # 1: activations after the last norm and ReLU
    prepared: ClassVar[bool] = True  # nothing is trained, but the inpainting is too slow for training steps

    Options: ClassVar = InpaintingOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._module: Held[GuardModule] = Held("synthesiser 'kirby' has no classifier yet; call prepare(context) first")

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True

    def check(self, context: PrepareContext) -> None:
        check_places(context)

    def prepare(self, context: PrepareContext) -> None:
        self._module.put(context.module)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """Waits for the device: for stores."""
        module = self._module.get()
        device = batch.images.device
        order = torch.randperm(len(batch.images), generator=generator, device=device)
        threshold = self.options.cam_threshold
        masks = torch.cat([key_regions(module, batch.images[rows], threshold) for rows in order.split(AT_ONCE)])
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
        if self.options.augment_outliers:
            images = augment_outliers(images, generator, masks)
        return Outliers(images, "key region inpainted", parents=batch.labels[rows][:, None])


class KirbyOptions(StoredRejectionOptions, InpaintingOptions):
    """The paper's defaults, but for the head."""

    augment_outliers: bool = option(
        False,
        "Augment outliers as the official code does: those of the method's store once, with patches from outside the "
        "key region, which a store does not hold; given ones at each visit.",
    )

    tune_epochs: int = option(5, "Epochs of the rejection network after the classifier's own.", common=True, ge=1)


@register
class Kirby(StoredRejection):
    """Rejection network on images whose key region is inpainted (Kim et al., AAAI 2023)."""

    name = "kirby"
    Options = KirbyOptions
    makers = ("kirby",)
    read_anyway = frozenset({"augment_outliers"})

    def augments(self, context: MethodContext) -> bool:
        return bool(self.options.augment_outliers and context.outliers)
