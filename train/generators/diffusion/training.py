"""Training of the built-in diffusion model; keeps a checkpoint per epoch and continues from it.

Files in the model's folder:

    diffusion.safetensors, diffusion.json   the finished model (averaged weights) and its card: all that is read later
    checkpoint.safetensors                  while it is being trained; autoencoder-*.safetensors for the autoencoder
    training.lock                           held by the run that trains it; others wait
    progress/0001.png ...                   training images and samples, a class per column
    metrics.jsonl                           a line per epoch; `held_out` is the error of the predicted noise on images
                                            that are never trained on, at fixed times with fixed noise
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from guard.artefact.files import write_atomic
from guard.record import Record

from ...cache.keyed import kept_path
from ...cache.shared_model import (
    check_fits,
    found_or_trained,
    images_digest,
    read_finished,
    report_differing,
    write_finished,
)
from ...cache.trained_network import Schedule
from ...engine.averaging import Average
from ...engine.checkpoint import read_progress
from ...engine.distributed import processes
from ...engine.divided import average_gradients, divided
from ...engine.epochs import Epochs, epochs_showing, train_in_folder
from ...engine.loader import Feed
from ...engine.schedule import set_lr
from ...engine.seeds import seeded
from ...outliers.base import IDBatch, PrepareContext
from ..grid import png_grid
from .autoencoder import AutoencoderCard, halvings, trained_autoencoder
from .base import TIMES, DiffusionOptions
from .denoiser import Denoiser
from .model import LARGEST_IN_PIXELS, BuiltInDiffusion, ModelCard
from .noise import spread_times
from .sampling import denoised

log = logging.getLogger("ood_guard")

EPOCHS, LEAST, MOST = 60, 60_000, 300_000  # passes by default, and the images shown in them
EMA = 0.999
NO_CLASS = 0.1  # share of images that are shown without their class
CLIP = 1.0  # largest norm of a gradient
HELD_OUT, MOST_HELD_OUT = 0.02, 512
PICTURE_STEPS = 20
GRIDS = 20  # pictures in all, at least
PER_GRID = 10  # classes in a picture
CACHE_BYTES = 2 * 2**30  # of latents
STAGE = 20_000  # its seeds are none of a training stage's
IMAGES = "height", "width", "channels", "class_names"  # what a shared model must have been trained for


class DiffusionCard(Record):
    """What decides a trained model; kept beside it, and compared before it is used or trained on."""

    model: ModelCard
    epochs: int
    batch_size: int
    lr: float
    seed: int
    data_fingerprint: str
    rows_digest: str
    images: int


def built_in_diffusion(context: PrepareContext, options: DiffusionOptions) -> BuiltInDiffusion:
    """The model of the context's images: loaded where its folder has a finished one, else trained (further)."""
    folder = options.kept_in(context.folder)
    card = _card(context, options)
    model = found_or_trained(
        folder,
        "diffusion model",
        lambda: load_built_in(folder, card, any_options=options.named_folder is not None),
        lambda: Training(context, card, folder, options).run(),
    )
    return model.to(context.device).eval().requires_grad_(False).sampling(options)


def load_built_in(folder: Path, asked: DiffusionCard, *, any_options: bool = False) -> BuiltInDiffusion | None:
    """The finished model in `folder`, None where there is none. With `any_options` a line in the log names those that
    are not as asked for.

    Raises:
        ConfigError: it is of other classes or of images of another size, or (unless `any_options`) was trained on
            other images, with other options or another seed.
        ArtefactDamagedError: its files cannot be read.
    """
    found = read_finished(folder, "diffusion", DiffusionCard, "diffusion model")
    if found is None:
        return None
    card, state = found
    then, now = _flat(card), _flat(asked)
    check_fits(folder, "diffusion model", then, now, IMAGES if any_options else now)
    report_differing(folder, "diffusion model", then, now, [key for key in now if key.startswith("diffusion.")])
    if card.rows_digest != asked.rows_digest or card.data_fingerprint != asked.data_fingerprint:
        log.warning("the diffusion model in %s was trained on other images; it may have seen held-out ones", folder)
    model = BuiltInDiffusion(card.model)
    model.load_state_dict(state)
    return model


def epochs_for(images: int) -> int:
    """Passes over the images by default: `EPOCHS`, but as many as show it `LEAST` to `MOST` images."""
    return epochs_showing(min(max(EPOCHS * images, LEAST), MOST), images)


def _flat(card: DiffusionCard) -> dict[str, object]:
    """Its fields, those that are options by the paths that users write."""
    fields = card.model_dump()
    fields = {**fields.pop("model"), **fields}
    options = {name: "width" if name == "diffusion_width" else name for name in fields if name not in IMAGES}
    paths = {name: f"diffusion.{option}" for name, option in options.items() if option in DiffusionOptions.training}
    return {paths.get(name, name): value for name, value in fields.items()}


def _card(context: PrepareContext, options: DiffusionOptions) -> DiffusionCard:
    data, p = context.data, context.data.preprocess
    latent = max(p.height, p.width) > LARGEST_IN_PIXELS if options.latent is None else options.latent
    model = ModelCard(
        height=p.height,
        width=p.width,
        channels=p.channels,
        class_names=list(data.class_names),
        conditioning=options.conditioning,
        prediction=options.prediction,
        loss_weights=options.loss_weights,
        diffusion_width=options.width,
        latent=latent,
        patch=options.patch,
    )
    return DiffusionCard(
        model=model,
        epochs=options.epochs or epochs_for(len(data)),
        batch_size=options.batch_size,
        lr=options.lr,
        seed=context.seed,
        data_fingerprint=data.fingerprint,
        rows_digest=images_digest(data),
        images=len(data),
    )


class Training:
    """AdamW on the errors, min-SNR weighted by default, a cosine schedule with warm-up, averaged weights."""

    def __init__(self, context: PrepareContext, card: DiffusionCard, folder: Path, options: DiffusionOptions) -> None:
        self.context, self.card, self.folder, self.device = context, card, folder, context.device
        self.feed = Feed(context.data)
        with seeded(card.seed):
            self.model = BuiltInDiffusion(card.model).sampling(options)
        self.model.to(self.device)
        self.network = self.model.denoiser
        self.averaged = Average(self.network, EMA)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=card.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.autocast = self.model.autocast
        order = torch.randperm(len(self.feed), generator=torch.Generator().manual_seed(card.seed))
        held = min(int(HELD_OUT * len(self.feed)), MOST_HELD_OUT)
        self.held_out, rows = order[:held], order[held:]
        self.epochs = Epochs(
            "diffusion", self.feed, card.epochs, card.batch_size, card.seed, STAGE, self.device, rows=rows
        )
        self.latents: Tensor | None = None
        self.autoencoder_file: Path | None = None  # of the autoencoder alone; the finished model holds it

    def run(self) -> BuiltInDiffusion:
        """Train from the folder's checkpoint, or from the start, to the end; returns the averaged model."""
        read_progress(self.folder, self.card)  # refuses one of another training, before anything is trained
        if self.model.autoencoder is not None:
            self._train_autoencoder()
            self.latents = self._cached()
        train_in_folder(self.folder, self.card, self, metrics=True, after=self._show)
        self.network.load_state_dict(self.averaged.shadow.state_dict())
        write_finished(self.folder, "diffusion", self.model, self.card)
        if self.autoencoder_file is not None and processes().is_first:
            self.autoencoder_file.unlink(missing_ok=True)
        return self.model

    def _show(self, epoch: int) -> None:
        if epoch + 1 == self.card.epochs or (epoch + 1) % max(1, self.card.epochs // GRIDS) == 0:
            write_atomic(self.folder / "progress" / f"{epoch + 1:04d}.png", self.picture())

    def _train_autoencoder(self) -> None:
        model = self.model
        card = AutoencoderCard(channels=self.card.model.channels, halvings=halvings(*model.own_size))
        context = replace(self.context, folder=self.folder)
        schedule = Schedule(epochs=self.card.epochs, batch_size=self.card.batch_size)
        model.autoencoder = trained_autoencoder(context, card, model.filled, schedule)
        self.autoencoder_file = kept_path(context, "autoencoder", card, schedule)

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the images; mean errors."""
        self.network.train()
        numbers = self.epochs.means(epoch, self.step, before_step=self._set_lr)
        if len(self.held_out):
            numbers["held_out"] = self.held_out_error()
        return numbers

    def _set_lr(self, progress: float) -> None:
        set_lr(self.optimizer, self.card.lr, progress)

    def step(self, batch: IDBatch, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One update; the loss before it."""
        z, n = self._encoded(batch), len(batch.labels)
        times = spread_times(n, generator)
        noise = torch.randn(z.shape, generator=generator, device=self.device)
        unconditional = torch.rand(n, 1, generator=generator, device=self.device) < NO_CLASS
        with self.autocast():
            e = torch.where(unconditional, self.network.null, self.network.condition(batch.labels))
            loss = divided(self.network.loss, z, e, times, noise).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.network.parameters())
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.averaged.update(self.network, step)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Mean squared error of the predicted noise of the averaged network, on the images held out."""
        network = self.averaged.shadow.eval()
        assert isinstance(network, Denoiser)
        generator = torch.Generator(self.device).manual_seed(0)
        held, done = len(self.held_out), 0
        all_times = torch.arange(held, device=self.device) * TIMES // held
        total = torch.zeros((), device=self.device)
        for batch in self.feed.batches(self.held_out, self.epochs.batch_size, self.device):
            z = self._encoded(batch)
            times = all_times[done : done + len(z)]
            noise = torch.randn(z.shape, generator=generator, device=self.device)
            with self.autocast():
                total += network.noise_loss(z, network.condition(batch.labels), times, noise).sum()
            done += len(z)
        return float(total) / held

    @torch.no_grad()
    def picture(self) -> bytes:
        """A PNG: a row of training images, and three of samples; a class per column."""
        network = self.averaged.shadow.eval()
        assert isinstance(network, Denoiser)
        labels = torch.from_numpy(np.array(self.feed.data.labels))
        classes = torch.arange(min(len(self.card.model.class_names), PER_GRID))
        first = torch.stack([(labels == c).nonzero()[0, 0] for c in classes])
        real = next(self.feed.batches(first, len(first), self.device)).images
        wanted = classes.to(self.device).repeat(3)
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.randn(len(wanted), *self.model.latent_shape, generator=generator, device=self.device)
        with self.autocast():
            e = network.condition(wanted)
            z = denoised(network, noise, e, steps=PICTURE_STEPS, guidance=self.model.guidance)
        return png_grid([real, *self.model.decode(z).chunk(3)])

    def _encoded(self, batch: IDBatch) -> Tensor:
        if self.latents is not None and batch.rows is not None:
            return self.latents[batch.rows].float()
        return self.model.encode(batch.images)

    def _cached(self) -> Tensor | None:
        """Latents of all images in half precision, where they come from an autoencoder and fit."""
        if self.model.autoencoder is None or 2 * len(self.feed) * math.prod(self.model.latent_shape) > CACHE_BYTES:
            return None
        rows = torch.arange(len(self.feed))
        batches = self.feed.batches(rows, self.epochs.batch_size, self.device)
        return torch.cat([self.model.encode(batch.images).half() for batch in batches])

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "averaged": self.averaged.shadow}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"network": self.optimizer}
