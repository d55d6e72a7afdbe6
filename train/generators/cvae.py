"""A conditional variational autoencoder of the user's images, with a learned embedding per class.

    q(z | x) = N(m(x), diag exp v(x));   x^ = dec(z, e_y),   e_y in R^latent the learned embedding of class y
    L = mean over pixels (x^ - x)^2  +  KL(q || N(0, I)) / (channels H W)

Images are in [0, 1], grey or colour, of any size (`convolutions.working_size`). Source: CMG, Wang et al., ECML-PKDD
2022; theirs has a ResNet-18 for CIFAR-10, this one the convolutions of DCGAN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guard.record import Record, option, part

from ..cache.trained_network import Schedule, train_kept
from ..engine.divided import average_gradients, divided
from ..engine.epochs import epochs_showing
from ..engine.seeds import seeded
from ..outliers.base import IDBatch, Learner, PrepareContext
from . import convolutions

HIDDEN = 512  # units of the fully connected layers
SHOWN = 500_000  # images that it sees by default: 10 epochs of CIFAR-10


class CVAEForm(Record):
    """Form and learning."""

    latent: int = option(32, "Width of the latents and of the class embeddings.", ge=1)
    width: int = option(32, "Channels of the largest hidden map, doubled at each halving.", ge=1)
    lr: float = option(1e-3, "Adam's learning rate.", gt=0)


class CVAEOptions(CVAEForm):
    """And how long it is trained."""

    epochs: int | None = option(
        None, "Passes over the images; default as many as show it 500,000 (published: 200 for CIFAR-10).", ge=1
    )


def cvae_loss(images: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
    """Squared error per pixel, and the divergence from N(0, I) per pixel; images (N, ...), posterior (N, latent)."""
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
    return {"cvae_error": (decoded - images).square().mean(), "cvae_kl": divergence / images[0].numel()}


class CVAE(Learner):
    """Encoder, decoder and class embeddings; in and out at the size of the images."""

    def __init__(self, options: CVAEForm, num_classes: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size = convolutions.working_size(height, width)
        self.image_size = (height, width)
        self.latent = options.latent
        first = convolutions.widths(self.size, options.width)[0]
        flat = first * convolutions.START**2
        self.down = convolutions.down(self.size, options.width, channels)
        self.posterior = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * self.latent)
        )
        self.embedding = nn.Embedding(num_classes, self.latent)
        self.expand = nn.Sequential(
            nn.Linear(2 * self.latent, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, flat),
            nn.Unflatten(1, (first, convolutions.START, convolutions.START)),
        )
        self.up = convolutions.up(self.size, options.width, channels)
        self.lr = options.lr
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if not self._optimizers:
            self._optimizers = {"cvae": torch.optim.Adam(self.parameters(), lr=self.lr)}
        return self._optimizers

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, channels, H, W) in [0, 1] -> mean and log variance of z, each (N, latent)."""
        mean, log_variance = self.posterior(self.down(convolutions.resized(images, self.size, self.size))).chunk(2, -1)
        return mean, log_variance

    def forward(self, z: Tensor, embedded: Tensor) -> Tensor:
        """Latents (N, latent) and class embeddings (N, latent) -> images (N, channels, H, W) in [0, 1]."""
        return convolutions.resized(self.up(self.expand(torch.cat([z, embedded], -1))), *self.image_size)

    def update(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """One step on images (N, channels, H, W) in [0, 1] with labels (N,); the two terms before it."""
        mean, log_variance = divided(self.encode, images)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        decoded = divided(self, mean + (0.5 * log_variance).exp() * noise, self.embedding(labels))
        losses = cvae_loss(images, decoded, mean, log_variance)
        optimizer = self.optimizers()["cvae"]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        average_gradients(self.parameters())
        optimizer.step()
        return losses


def trained_cvae(context: PrepareContext, options: CVAEOptions) -> CVAE:
    """One trained on the context's images, kept in its folder."""
    p = context.data.preprocess
    with seeded(context.seed):
        cvae = CVAE(options, len(context.data.class_names), p.channels, p.height, p.width)
    cvae.to(context.device)
    schedule = Schedule(epochs=options.epochs or epochs_showing(SHOWN, len(context.data)))

    def update(batch: IDBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return cvae.update(convolutions.to_signal(batch.images), batch.labels, generator)

    train_kept(context, cvae, update, "cvae", part(options, CVAEForm), schedule)
    return cvae
