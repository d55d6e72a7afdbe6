"""In-distribution images changed where the network looks (ASCOOD, Regmi, CVPR 2026).

    G = the gradient of the true class's logit with respect to the normalised image x, the network in eval mode
    shuffle    the pixels of the largest sum over channels of exp(G), a share p of all, in another order
    gradient   x + alpha G on the entries of largest |G|, a share p of all: the image's class, overdrawn

The first takes from an image what makes it its class and leaves its colours; it is for networks trained from scratch.
The second, for pretrained networks, adds G: subtracting it, or permuting, is far worse there in the paper.

alpha G is often a fraction of a grey level, which rounding would undo: pixels become integers at random, up with the
probability of the fraction, so the change has the right mean, and the dither is below a grey level.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.record import Record, option

from ...engine.divided import divided
from ...engine.modes import evaluating
from ...engine.precision import mixed_precision
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser

Mode = Literal["shuffle", "gradient"]


def true_logit_gradient(module: GuardModule, images: Tensor, labels: Tensor) -> Tensor:
    """G float32 (K, channels, H, W) of uint8 images (K, H, W, channels) with labels (K,).

    It is of the normalised image, with its channels in the network's order. Parameters get no gradient, and nothing of
    the network changes.
    """
    precision = mixed_precision(images.device)

    def gradient(images: Tensor, labels: Tensor) -> Tensor:
        x = module.normalise(images).contiguous(memory_format=torch.channels_last).requires_grad_()
        with precision():
            logits = module.classifier(x).logits
        return torch.autograd.grad(logits.float().gather(1, labels[:, None]).sum(), x)[0]

    with evaluating(module), torch.enable_grad():
        return divided(gradient, images, labels).float()


def shuffle_salient(images: Tensor, gradient: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Images (K, H, W, channels) with their `count` most salient pixels among themselves in a random order.

    A pixel's salience is the sum over channels of exp(G); gradient (K, channels, H, W).
    """
    salience = gradient.logsumexp(1).flatten(1)  # the same order as the sum of exp, which overflows
    top = salience.topk(count, dim=1).indices
    order = torch.rand(top.shape, generator=generator, device=top.device).argsort(1)
    pixels = images.flatten(1, 2)
    to, source = (index[..., None].expand(-1, -1, pixels.shape[2]) for index in (top, top.gather(1, order)))
    return pixels.scatter(1, to, pixels.gather(1, source)).view_as(images)


def overdrawn(gradient: Tensor, count: int, alpha: Tensor | float) -> Tensor:
    """alpha G on the `count` entries of each gradient (K, channels, H, W) of largest |G|, 0 elsewhere."""
    flat = gradient.flatten(1)
    top = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, top, alpha * flat.gather(1, top)).view_as(gradient)


def in_grey_levels(module: GuardModule, change: Tensor) -> Tensor:
    """A change of normalised images (K, channels, H, W) as one of pixels (K, H, W, channels)."""
    pixels = (change / module.scale).permute(0, 2, 3, 1)
    return pixels[..., [2, 1, 0]] if module.normalisation.channel_order == "bgr" else pixels


def dithered(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Grey levels as uint8, rounded up or down at random so that the mean within 0..255 is right."""
    pixels = pixels.clamp(0, 255)
    low = pixels.floor()
    up = torch.rand(pixels.shape, generator=generator, device=pixels.device) < pixels - low
    return (low + up).to(torch.uint8)


class SalientOptions(Record):
    """The published defaults for networks trained from scratch."""

    mode: Mode = option(
        "shuffle",
        "What becomes of salient pixels: 'shuffle' permutes them within the image, 'gradient' adds alpha G (for "
        "pretrained networks).",
        common=True,
    )
    share: float = option(
        0.1,
        "Share p of an image that changes, of its pixels (shuffle) or its values (gradient), in (0, 1]; the "
        "published CIFAR-10 run has 0.15 to 0.2.",
        common=True,
        gt=0,
        le=1,
    )
    step: float = option(
        0.1,
        "alpha, what the gradient with respect to the normalised image is multiplied by: 0.1 for photos of 448 pixels, "
        "300 for Waterbirds in the paper; training logs by how many grey levels it moves a value.",
        read_if={"mode": "gradient"},
        common=True,
        gt=0,
    )


@register_synthesiser
class SalientPixels(ImageSynthesiser):
    """Images whose most salient pixels for their class are permuted, or moved along the gradient of its logit."""

    name: ClassVar[str] = "salient_pixels"
    source: ClassVar[str] = "ASCOOD, Regmi, CVPR 2026"
    Options: ClassVar[type[Record]] = SalientOptions
    augmented = False  # made of images that are augmented already
    started: Tensor
    moved: Tensor

    def __init__(self, count: int, num_classes: int, *, falls: tuple[float, int] | None = None, **options: Any) -> None:
        """`falls`: what alpha falls to, linearly, and in how many epochs; None: it stays."""
        super().__init__(count, num_classes, **options)
        self._falls = falls
        self.register_buffer("started", torch.zeros((), dtype=torch.int64))  # epochs; a resumed run goes on from there
        self.register_buffer("moved", torch.zeros(()), persistent=False)

    @classmethod
    def needs_classifier(cls, options: SalientOptions) -> bool:
        return True

    def prepare(self, context: PrepareContext) -> None:
        self._network = (context.module,)  # in a tuple: it is not part of this synthesiser's state

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self.started += 1

    def alpha(self) -> Tensor:
        """Scalar: alpha of this epoch, (alpha - end) (1 - epoch / epochs) + end with epochs from 0."""
        first: float = self.options.step
        end, epochs = self._falls or (first, 1)
        progress = ((self.started - 1) / epochs).clamp(0, 1)
        return end + (first - end) * (1 - progress)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        if not hasattr(self, "_network"):
            raise ConfigError(f"synthesiser {self.name!r} looks through a network: call prepare with one before sample")
        o: SalientOptions = self.options
        (module,) = self._network
        rows = self._rows(batch, generator)
        images, labels = batch.images[rows], batch.labels[rows]
        gradient = true_logit_gradient(module, images, labels)
        if o.mode == "shuffle":
            pixels = images.shape[1] * images.shape[2]
            made = shuffle_salient(images, gradient, min(max(2, int(o.share * pixels)), pixels), generator)
            return Outliers(made, f"the {o.share:.0%} most salient pixels permuted", parents=labels[:, None])
        count = max(1, int(o.share * images[0].numel()))
        change = in_grey_levels(module, overdrawn(gradient, count, self.alpha()))
        self.moved = change.abs().sum() / (count * len(images))
        made = dithered(images + change, generator)
        return Outliers(made, "the gradient of the true logit added", parents=labels[:, None])

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, Tensor]:
        """Nothing; with mode "gradient" it logs the mean change of the values that it moves, in grey levels."""
        return {"grey_levels": self.moved} if self.options.mode == "gradient" else {}

    def _rows(self, batch: IDBatch, generator: torch.Generator) -> Tensor:
        """(K,) rows of the batch: all as often as each other, give or take one."""
        n = len(batch.labels)
        orders = [
            torch.randperm(n, generator=generator, device=batch.labels.device) for _ in range(-(-self.count // n))
        ]
        return torch.cat(orders)[: self.count]
