"""KIRBY, key feature replacement. Source: Kim et al., AAAI 2023 (methods.md B8).

    key region = LayerCAM of the predicted class >= 0.3;   x~ = x with the key region inpainted
    L = mean binary cross-entropy of B(F(x)), or cross-entropy of C + 1 classes, F frozen

The official default is the C + 1 head with few outliers: ``head_kind="multiclass", ratio=0.06, hidden=2048`` and
``tap="map"``. Here the head is the binary one on pooled features, as for the other outliers, so that methods compare.
The official batches hold 64 images; here they are as large as the classifier's.
"""

from __future__ import annotations

from pydantic import Field

from .base import register
from .from_store import StoredRejection, StoredRejectionOptions


class KirbyOptions(StoredRejectionOptions):
    """The paper's defaults. `cam_threshold`: from where on the activation is a key region; `radius`: of Telea's method,
    in pixels; `augment`: the official augmentation of the outliers."""

    head_epochs: int = Field(default=5, ge=1)
    cam_threshold: float = Field(default=0.3, gt=0, lt=1)
    radius: float = Field(default=5.0, gt=0)
    augment: bool = False


@register
class Kirby(StoredRejection):
    """Rejection network on images whose key region is inpainted (Kim et al., AAAI 2023)."""

    name = "kirby"
    Options = KirbyOptions
