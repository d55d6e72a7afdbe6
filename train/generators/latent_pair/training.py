"""Training of the default pair on the user's own images; keeps a checkpoint per epoch and continues from it.

Files in the pair's folder:

    pair.safetensors, pair.json    the finished pair (averaged weights) and its card; nothing else is read later
    checkpoint.safetensors         while it is being trained, by the run that holds training.lock
    progress/0001.png ...          after each epoch: originals, reconstructions, and images of sampled z
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor, nn

from guard.artefact.files import write_atomic
from guard.data import ImageData
from guard.record import Record

from ...cache.shared_model import (
    check_fits,
    found_or_trained,
    images_digest,
    read_finished,
    report_differing,
    write_finished,
)
from ...engine.averaging import Average
from ...engine.distributed import alone
from ...engine.divided import average_gradients, divided, parameters_of
from ...engine.epochs import Epochs, train_in_folder
from ...engine.loader import Feed
from ...engine.precision import mixed_precision
from ...engine.schedule import set_lr
from ...engine.seeds import seeded
from ...outliers.base import IDBatch, PrepareContext
from ..grid import png_grid
from .base import PairOptions
from .losses import discriminator_loss, feature_distance, non_saturating, r1_penalty
from .style_pair import StylePair, resolution
from .trunk import Discriminator

log = logging.getLogger("ood_guard")

SHOWN = 150_000  # images, in as many epochs as that takes
EMA = 0.999
R1_WEIGHT, R1_EVERY = 0.1, 16
PERCEPTUAL = 0.5
ADVERSARIAL_FROM = 0.5  # of the steps are pixels alone, at half the cost: first reconstruct, then sharpen
BETAS = 0.5, 0.99
CLIP = 1.0  # largest norm of a gradient: a young discriminator's are now and then far off
SHOW_IN_GRID = 12


_RENAMED = {"pair": "model", "pair_batch": "batch_size"}


class PairCard(Record):
    """What decides a trained pair; kept beside it, and compared before it is trained on."""

    height: int
    width: int
    channels: int
    classes: int
    size: int
    options: PairOptions
    epochs: int
    seed: int
    data_fingerprint: str
    rows_digest: str
    images: int

    @field_validator("options", mode="before")
    @classmethod
    def _of_earlier_versions(cls, options: Any) -> Any:
        """Their names began with "pair_"."""
        if not isinstance(options, dict):
            return options
        return {_RENAMED.get(name, name.removeprefix("pair_")): value for name, value in options.items()}


def style_pair(context: PrepareContext, options: PairOptions) -> StylePair:
    """The default pair: loaded where its folder has a finished one, else trained (further)."""
    folder = options.kept_in(context.folder)
    card = _card(context, options)
    pair = found_or_trained(
        folder,
        "pair",
        lambda: load_style_pair(folder, card, any_options=options.named_folder is not None),
        lambda: PairTraining(context.data, card, context.device).run(folder),
    )
    return pair.to(context.device).eval().requires_grad_(False)


def load_style_pair(folder: Path, asked: PairCard, *, any_options: bool = False) -> StylePair | None:
    """The finished pair in `folder`, None where there is none. With `any_options` a line in the log names those that
    are not as asked for.

    Raises:
        ConfigError: it was trained on other images, or (unless `any_options`) with other options or another seed.
        ArtefactDamagedError: its files cannot be read.
    """
    found = read_finished(folder, "pair", PairCard, "pair")
    if found is None:
        return None
    card, state = found
    free = {"options", "epochs", "seed", "rows_digest", "images", "size"} if any_options else set()
    then, now = card.model_dump(), asked.model_dump()
    check_fits(folder, "pair", then, now, [key for key in now if key not in free])
    report_differing(folder, "pair", _options(card), _options(asked), _options(asked))
    if card.rows_digest != asked.rows_digest:
        log.warning("the pair in %s was trained on other rows of the data; it may have seen held-out images", folder)
    pair = _fresh(card)
    pair.load_state_dict(state)
    return pair


def _card(context: PrepareContext, options: PairOptions) -> PairCard:
    data, p = context.data, context.data.preprocess
    return PairCard(
        height=p.height,
        width=p.width,
        channels=p.channels,
        classes=len(data.class_names),
        size=resolution(p.height, p.width, options.size),
        options=options.model_copy(update={"folder": None}),
        epochs=options.epochs or -(-SHOWN // len(data)),
        seed=context.seed,
        data_fingerprint=data.fingerprint,
        rows_digest=images_digest(data),
        images=len(data),
    )


def _options(card: PairCard) -> dict[str, Any]:
    """The options, with what was chosen for those that may be left open."""
    return {**card.options.model_dump(exclude={"folder"}), "epochs": card.epochs, "size": card.size}


def _fresh(card: PairCard) -> StylePair:
    o = card.options
    return StylePair(card.size, o.width, o.latent, card.classes, card.height, card.width, card.channels)


class PairTraining:
    """The encoder, generator and mapping against a discriminator."""

    def __init__(self, data: ImageData, card: PairCard, device: torch.device) -> None:
        options = card.options
        self.card, self.options, self.device, self.feed = card, options, device, Feed(data)
        with seeded(card.seed):
            pair = _fresh(card)
            discriminator = Discriminator(card.size, max(4, options.width // 2), card.channels, card.classes)
        self.pair = pair.to(device)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        self.averaged = Average(self.pair, EMA)
        self.pair_optimizer = torch.optim.Adam(equalised(self.pair), betas=BETAS)
        self.discriminator_optimizer = torch.optim.Adam(equalised(self.discriminator), betas=BETAS)
        self.epochs = Epochs("pair", self.feed, card.epochs, options.batch_size, card.seed, 0, device)
        self.autocast = mixed_precision(device)

    def run(self, folder: Path) -> StylePair:
        """Train from the folder's checkpoint, or from the start, to the end; returns the averaged pair."""

        def show(epoch: int) -> None:
            write_atomic(folder / "progress" / f"{epoch + 1:04d}.png", self.picture())

        train_in_folder(folder, self.card, self, after=show)
        pair = self.averaged.shadow
        assert isinstance(pair, StylePair)
        write_finished(folder, "pair", pair, self.card)
        return pair

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the images; mean losses."""
        return self.epochs.means(epoch, self.step, before_step=self._set_lr)

    def _set_lr(self, progress: float) -> None:
        for optimizer in (self.pair_optimizer, self.discriminator_optimizer):
            set_lr(optimizer, self.options.lr, progress)

    def step(self, batch: IDBatch, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One update of the makers and, once it has joined, one of the discriminator."""
        real, labels = self.pair.to_signal(batch.images), batch.labels
        joined = self.options.adversarial > 0 and step >= ADVERSARIAL_FROM * self.epochs.count * self.epochs.steps
        with self.autocast():
            w = divided(self.pair.encoder, real)
            if joined:
                labels = torch.cat([labels, labels[: max(2, len(real) // 4)]])
                z = torch.randn(len(labels) - len(real), self.pair.latent, generator=generator, device=self.device)
                w = torch.cat([w, self.pair.broadcast(self.pair.mapping(z, labels[len(real) :]))])
            made = divided(self.pair.synthesis, w).float()
        terms = {"pixels": (made[: len(real)] - real).abs().mean()}
        loss = terms["pixels"]
        if joined:
            terms |= self._adversarial_terms(real, made, labels)
            loss = loss + PERCEPTUAL * terms["features"] + self.options.adversarial * terms["adversarial"]
        _update(self.pair_optimizer, loss)
        if joined:
            terms["discriminator"] = self._discriminator_step(real, made.detach(), labels, step)
        self.averaged.update(self.pair, step)
        return {name: value.detach() for name, value in terms.items()}

    def _adversarial_terms(self, real: Tensor, made: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the discriminator finds in the images that were made, of which the first are to equal `real`."""
        self.discriminator.requires_grad_(False)
        with self.autocast():
            logits, maps = self.discriminator(made, labels)
            with torch.no_grad():
                real_maps = self.discriminator.trunk(real)
        features = feature_distance(real_maps, [m[: len(real)] for m in maps])
        return {"features": features, "adversarial": non_saturating(logits)}

    def _discriminator_step(self, real: Tensor, made: Tensor, labels: Tensor, step: int) -> Tensor:
        self.discriminator.requires_grad_(True)
        own = labels[: len(real)]
        with self.autocast():
            real_logits, _ = self.discriminator(real, own)
            made_logits, _ = self.discriminator(made, labels)
        loss = discriminator_loss(real_logits, made_logits)
        penalised = loss
        if step % R1_EVERY == 0:  # in float32: it differentiates a gradient
            x = real.detach().requires_grad_()
            with alone():  # and what several processes gather can be differentiated once
                penalised = loss + R1_WEIGHT * R1_EVERY * r1_penalty(self.discriminator(x, own)[0], x)
        _update(self.discriminator_optimizer, penalised)
        return loss

    @torch.no_grad()
    def picture(self) -> bytes:
        """A PNG: rows of originals, their reconstructions, and images of sampled z, one class per column."""
        pair = self.averaged.shadow
        assert isinstance(pair, StylePair)
        rows = torch.linspace(0, len(self.feed) - 1, SHOW_IN_GRID).long()
        batch = next(self.feed.batches(rows, len(rows), self.device))
        classes = torch.arange(SHOW_IN_GRID, device=self.device) % self.card.classes
        drawn = pair.sample(classes, torch.Generator(self.device).manual_seed(0))
        return png_grid([batch.images, pair.generate(pair.encode(batch.images)), pair.generate(drawn)])

    def modules(self) -> dict[str, nn.Module]:
        return {"pair": self.pair, "averaged": self.averaged.shadow, "judge": self.discriminator}  # as in kept files

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"makers": self.pair_optimizer, "judges": self.discriminator_optimizer}


def equalised(module: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups whose learning rate is divided by the root of the weights' fan-in (`factor`).

    With Adam, whose steps do not depend on a weight's scale, these are StyleGAN's equalised learning rates: every layer
    turns by the same share per step. Without them the widest layers run away.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            matrix = parameter.ndim >= 2 and not isinstance(layer, nn.Embedding)
            fan_in = parameter[0].numel() if matrix else 1
            groups.setdefault(fan_in**-0.5, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = parameters_of([optimizer])
    average_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()
