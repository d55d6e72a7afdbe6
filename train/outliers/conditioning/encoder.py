"""An image encoder into a diffusion model's conditioning space. Source: Dream-OOD, Du et al., NeurIPS 2023;
BOOD and FodFoM start from it too.

    h(x) = A backbone(x) + a in R^E,   T(y) in R^E the frozen anchor of class y (`Diffusion.condition`)
    L = -log softmax_c( cos(h(x), T(c)) / t )_y,   t = 0.1

Where h is taken to unit length, that is the likelihood of one von Mises-Fisher distribution per class with mean
direction T(y) / |T(y)| and concentration kappa = 1 / t, all classes equally likely (docs/methods/dream_ood.md).

Published: ResNet-34 and 200 epochs (CIFAR-100), features taken of augmented images. The default net is smaller and
sees fewer images, so that it is trained in minutes on a CPU; features are those of the images as they are. The
gradient of a cosine goes as 1 / (t |h|), and h is short at first: unclipped, the first steps at lr 0.1 throw the
features so far that a short training does not bring them back. So its norm is clipped to 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artefact.files import write_atomic
from guard.errors import ArtefactDamagedError, ConfigError
from guard.heads import unit
from guard.record import Record, option

from ...backbones import automatic_backbone, check_backbone, create_backbone
from ...cache.keyed import content_digest, kept_path
from ...cache.trained_network import Schedule, train_kept
from ...engine.augment import augment, usual_shift
from ...engine.divided import average_gradients, divided
from ...engine.epochs import epochs_showing
from ...engine.loader import Feed
from ...engine.precision import mixed_precision
from ...engine.progress import progress_bar
from ...engine.schedule import set_lr
from ...engine.seeds import PREPARED_STAGE, epoch_seed, seeded
from ..base import IDBatch, Learner, PrepareContext
from .table import TOKEN_NORM

SHOWN = 300_000  # images that it sees by default: 6 epochs of CIFAR-10
MOST_EPOCHS = 50  # by default: a small set is known by heart by then
CLIP = 1.0  # largest norm of the gradient
SAME_DIRECTION = 0.9999  # cosine from which two anchors cannot be told apart


class EncoderOptions(Record):
    """Form and learning of the encoder."""

    backbone: str | None = option(
        None, "Backbone, see guard backbones; default wrn16_2 up to 64 pixels, else resnet18 (published: ResNet-34)."
    )
    epochs: int | None = option(
        None, "Passes over the images; default as many as show 300,000, at most 50 (published: 200).", ge=1
    )
    batch_size: int = option(128, "Images per training step.", ge=2)
    lr: float = option(0.1, "Peak learning rate of SGD, which a cosine takes to zero.", gt=0)
    temperature: float = option(0.1, "Temperature of the softmax over cosines, above 0.", gt=0)
    augment: Literal["auto", "none", "crop", "crop+flip"] = option(
        "auto", "How its training images vary: none, crop, crop+flip, or auto as augment= of guard.train."
    )

    @field_validator("backbone")
    @classmethod
    def _is_one(cls, name: str | None) -> str | None:
        if name is not None:
            check_backbone(name)
        return name


class EncoderIdentity(Record):
    """What decides what an encoder learns, beside the images, the seed and the schedule."""

    backbone: str
    lr: float
    temperature: float
    augment: Literal["none", "crop", "crop+flip"]
    learned: bool
    anchors: str


class AnchoredEncoder(Learner):
    """Images to features (N, E), whose cosines with the anchors are the logits of a classifier.

    Args:
        anchors: T (C, E), frozen.
        learned: whether offsets delta (C, E) of the anchors are learned with the features, from zero on, in units in
            which an anchor is as long as Stable Diffusion's: what one step moves does not depend on the space's scale.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: str,
        anchors: Tensor,
        *,
        channels: int,
        image_size: int,
        temperature: float = 0.1,
        lr: float = 0.1,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, in_chans=channels, image_size=image_size)
        self.project = nn.Linear(self.backbone.num_features, anchors.shape[1])
        self.register_buffer("anchors", anchors.detach().clone().float())
        self.delta = nn.Parameter(torch.zeros_like(self.anchors)) if learned else None
        self.temperature, self.lr = temperature, lr
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if not self._optimizers:
            parts: list[nn.Parameter] = list(self.parameters())
            decayed = [p for p in parts if p.ndim >= 2 and p is not self.delta]
            rest = [p for p in parts if p.ndim < 2 or p is self.delta]
            groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
            self._optimizers = {"encoder": torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)}
        return self._optimizers

    def targets(self) -> Tensor:
        """What the features of each class point to: T, or T + |T| / 0.39 delta; (C, E)."""
        if self.delta is None:
            return self.anchors
        length: Tensor = torch.linalg.vector_norm(self.anchors, dim=-1, keepdim=True)
        return self.anchors + length / TOKEN_NORM * self.delta

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) -> features (N, E), float32, of any length."""
        device = images.device
        signal = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with mixed_precision(device)():
            pooled = self.backbone.pool(self.backbone.forward_map(signal))
        features: Tensor = self.project(pooled.float())
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, E), of any length -> cos(h, T(c)) / t, (N, C)."""
        return anchor_logits(features, self.targets(), self.temperature)

    def set_progress(self, done: float) -> None:
        """Set the learning rate for the share of the training that is done, in [0, 1)."""
        set_lr(self.optimizers()["encoder"], self.lr, done)

    def update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step on uint8 images (N, H, W, channels) of classes (N,); the loss before it."""
        logits = self.logits(divided(self, images))
        loss = F.cross_entropy(logits, labels)
        optimizer = self.optimizers()["encoder"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters())
        torch.nn.utils.clip_grad_norm_(self.parameters(), CLIP)
        optimizer.step()
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}


def anchor_logits(features: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """cos(h, T(c)) / t, (N, C), of features (N, E) and anchors (C, E) of any length."""
    return unit(features) @ unit(anchors).T / temperature


def trained_encoder(
    context: PrepareContext, anchors: Tensor, options: EncoderOptions, *, learned: bool = False
) -> AnchoredEncoder:
    """One trained on the context's images, kept in its folder; in eval mode, without gradients.

    Args:
        anchors: T (C, E): ``diffusion.condition(torch.arange(C))``.
        learned: whether the anchors move (`AnchoredEncoder`).
    """
    _check_apart(anchors, context.data.class_names)
    p = context.data.preprocess
    with seeded(context.seed):
        encoder = AnchoredEncoder(
            _backbone(context, options),
            anchors,
            channels=p.channels,
            image_size=max(p.height, p.width),
            temperature=options.temperature,
            lr=options.lr,
            learned=learned,
        )
    encoder.to(context.device)
    how, pad = _augment(context, options), usual_shift(p.height)  # as the training loop shifts its images

    def update(batch: IDBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return encoder.update(varied(batch.images, how, pad, generator), batch.labels)

    identity = _identity(context, anchors, options, learned)
    train_kept(context, encoder, update, "encoder", identity, _schedule(context, options), encoder.set_progress)
    return encoder


def _augment(context: PrepareContext, options: EncoderOptions) -> Literal["none", "crop", "crop+flip"]:
    if options.augment == "auto":
        return "crop" if context.data.name.startswith("digits") else "crop+flip"
    return options.augment


def varied(images: Tensor, how: str, pad: int, generator: torch.Generator) -> Tensor:
    """uint8 images (N, H, W, channels) shifted and mirrored as ``augment=`` of `guard.train` says."""
    return images if how == "none" else augment(images, generator, pad=pad, flip=how == "crop+flip")


class Features(NamedTuple):
    """Features (N, E) of the training images, as the encoder gives them, and their classes int64 (N,)."""

    data: Tensor
    labels: Tensor


@torch.no_grad()
def training_features(
    context: PrepareContext,
    encoder: AnchoredEncoder,
    options: EncoderOptions,
    *,
    augmented: bool = False,
) -> Features:
    """Features of all training images in their order, computed once and kept in the context's folder.

    Args:
        encoder, options: what `trained_encoder` gave and was given.
        augmented: of images varied as in training, as in the official code.

    Raises:
        ArtefactDamagedError: the kept file cannot be read.
    """
    identity = _identity(context, encoder.anchors, options, learned=False)
    kind = "features-augmented" if augmented else "features"
    path = kept_path(context, kind, identity, _schedule(context, options))
    if path.exists():
        try:
            kept = load(path.read_bytes())
            return Features(kept["features"].to(context.device), kept["labels"].to(context.device))
        except (SafetensorError, KeyError) as error:
            raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it to compute it anew") from None
    feed, size = Feed(context.data), options.batch_size
    generator = torch.Generator(context.device).manual_seed(epoch_seed(context.seed, PREPARED_STAGE + 1, 0))
    how, pad = _augment(context, options) if augmented else "none", usual_shift(context.data.preprocess.height)
    parts, labels = [], []
    encoder.eval()
    with progress_bar("features", -(-len(feed) // size)) as advance:
        for batch in feed.batches(torch.arange(len(feed)), size, context.device):
            parts.append(encoder(varied(batch.images, how, pad, generator)))
            labels.append(batch.labels)
            advance()
    made = Features(torch.cat(parts), torch.cat(labels))
    write_atomic(path, save({"features": made.data.cpu().contiguous(), "labels": made.labels.cpu().contiguous()}))
    return made


def _backbone(context: PrepareContext, options: EncoderOptions) -> str:
    p = context.data.preprocess
    return options.backbone or automatic_backbone(max(p.height, p.width))


def _schedule(context: PrepareContext, options: EncoderOptions) -> Schedule:
    default = min(MOST_EPOCHS, epochs_showing(SHOWN, len(context.data)))
    return Schedule(epochs=options.epochs or default, batch_size=options.batch_size)


def _identity(context: PrepareContext, anchors: Tensor, options: EncoderOptions, learned: bool) -> EncoderIdentity:
    return EncoderIdentity(
        backbone=_backbone(context, options),
        lr=options.lr,
        temperature=options.temperature,
        augment=_augment(context, options),
        learned=learned,
        anchors=content_digest(anchors.half()),
    )


def _check_apart(anchors: Tensor, names: tuple[str, ...]) -> None:
    """Refuse anchors of which two have one direction, before anything is trained towards them.

    Raises:
        ConfigError: naming some of them.
    """
    cosines = unit(anchors.detach().float()).cpu()
    pairs = ((cosines @ cosines.T).triu(1) > SAME_DIRECTION).nonzero().tolist()
    if pairs:
        some = ", ".join(f"{names[a]} = {names[b]}" for a, b in pairs[:3])
        raise ConfigError(
            f"{len(pairs)} pairs of classes have the same embedding ({some[:120]}), so that no feature can tell them "
            "apart; give them others in the diffusion model"
        )
