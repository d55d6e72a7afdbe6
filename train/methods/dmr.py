"""DMR and its kin. Source: Choi & Na, CVPR 2024 workshop (methods.md A4).

    mlm         x~ = G( 1/k sum_i w_i )                       k latents of different classes
    dmr         x~ = G( lambda (w - mu_y) )                   lambda ~ U(1, 3)
    dmr_mlm     x~ = G( lambda 1/k sum_i (w_i - mu_y(i)) )
    dmr_kirby   the outliers of dmr_mlm and of KIRBY, half and half

then a rejection network on the frozen classifier, in-distribution = 0, outlier = 1 (`rejection`). E, G come from an
encoder/generator pair that is trained on the training images first (`train.generators`), or from one of your own
(``pair=``). The paper's numbers are a StyleGAN-XL's; the default pair is far smaller.

``variant="code"`` takes what the official notebooks do to make outliers (latents drawn from the mapping network, lambda
from {1, 3}, augmentation); their head is ``tap="map"`` with ``hidden=2048``. The default is the paper's recipe, which
asks of the pair only that it reconstructs images. Heads read pooled features by default, so that any backbone does.
The row that the paper calls DMR, and combines with KIRBY, is DMR+MLM.
"""

from __future__ import annotations

from pydantic import Field

from ..outliers.base import Synthesiser
from ..outliers.images import Mixture
from ..outliers.images.latent_arithmetic import LatentOptions, MixedLatentOptions
from .base import MethodContext, register
from .from_store import StoredRejection, StoredRejectionOptions, filled_store


class DMROptions(StoredRejectionOptions, LatentOptions):
    """Options of the head, the store, the latents and the pair; the paper's defaults."""


class MixedDMROptions(StoredRejectionOptions, MixedLatentOptions):
    """As `DMROptions`, and `k` latents per outlier."""


class DMRKirbyOptions(MixedDMROptions):
    """As `MixedDMROptions`, and KIRBY's `cam_threshold` and `radius`. `store_size` is each store's."""

    cam_threshold: float = Field(default=0.3, gt=0, lt=1)
    radius: float = Field(default=5.0, gt=0)


@register
class MLM(StoredRejection):
    """Rejection network on decoded means of latents of different classes (Choi & Na 2024)."""

    name = "mlm"
    Options = MixedDMROptions


@register
class DMR(StoredRejection):
    """Rejection network on decoded latents without their class's mean (Choi & Na 2024)."""

    name = "dmr"
    Options = DMROptions


@register
class DMRMLM(StoredRejection):
    """Rejection network on decoded means of latents without their classes' means (Choi & Na 2024)."""

    name = "dmr_mlm"
    Options = MixedDMROptions


@register
class DMRKirby(StoredRejection):
    """Rejection network on the outliers of DMR+MLM and of KIRBY (Choi & Na 2024)."""

    name = "dmr_kirby"
    Options = DMRKirbyOptions

    def made(self, context: MethodContext, count: int) -> Synthesiser:
        o: DMRKirbyOptions = self.options
        augment = o.variant == "code" if o.augment is None else o.augment

        def part(name: str, n: int) -> Synthesiser:
            return filled_store(name, o, context, n, augment=augment)

        return Mixture({"dmr_mlm": 1.0, "kirby": 1.0}, max(2, count), part)
