"""Points of low density under one Gaussian per class, each with a covariance of its own. Source: NCIS, Doorenbos
et al. 2024.

    v ~ N(mu_y, Sigma_y + lambda I), one of the `keep` least likely of `draws`

The least likely of n draws are drawn directly, by their exact law (`features.class_gaussian`), and not by n draws and
a sort. Sigma_y of n_y points has no more than n_y - 1 directions; in the others lambda is all the variance there is,
which makes it, and hardly the selection, what decides how far out the points lie: in 768 dimensions the 10 least likely
of 3,330 have a radius only 7 to 8 % above the typical one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guard.errors import ConfigError
from guard.record import Record, option

from ..features.class_gaussian import largest_radii, radius_table

RIDGE = 1e-5


class LowDensityOptions(Record):
    """Published defaults."""

    ridge: float | None = option(
        None,
        "Number lambda that is added to the diagonals of the covariances; default 1e-5, as published, on Stable "
        "Diffusion, and 1e-3 on other diffusion models.",
        ge=0,
    )
    draws: int = option(3330, "Draws of which the least likely are kept.", ge=1)
    keep: int = option(10, "How many of the least likely are kept, at most draws.", ge=1)


class ClassGaussians(nn.Module):
    """mu_y and a factor L_y of Sigma_y + lambda I = L_y L_y^T, of vectors v (N, E) of classes (N,).

    Computed in float64 from eigenvalues, none below 0, so that fewer points than dimensions do no harm; kept in
    float32. Sigma_y is divided by n_y, as in the paper (the official code divides by n_y - 1).

    Raises:
        ConfigError: a class has no vectors.
    """

    means: Tensor
    factors: Tensor
    table: Tensor

    def __init__(self, v: Tensor, classes: Tensor, num_classes: int, options: LowDensityOptions) -> None:
        super().__init__()
        self.draws, self.keep = options.draws, min(options.keep, options.draws)
        ridge = RIDGE if options.ridge is None else options.ridge
        means, factors = [], []
        for c in range(num_classes):
            mine = v[classes == c].double()
            if not len(mine):
                raise ConfigError(f"class {c} has no embedding, so it has no Gaussian; embed some of its images")
            mean = mine.mean(0)
            values, vectors = torch.linalg.eigh((mine - mean).mT @ (mine - mean) / len(mine))
            means.append(mean.float())
            factors.append((vectors * (values.clamp_min(0) + ridge).sqrt()).float())
        self.register_buffer("means", torch.stack(means))
        self.register_buffer("factors", torch.stack(factors))
        self.register_buffer("table", radius_table(v.shape[1]).float().to(v.device))

    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One point (K, E) for each of classes (K,): each of the least likely of draws of its own, at random."""
        k, width = len(classes), self.means.shape[1]
        noise = torch.randn(k, width, generator=generator, device=classes.device)
        direction = noise / torch.linalg.vector_norm(noise, dim=-1, keepdim=True)
        radii = largest_radii(self.table, self.draws, self.keep, k, generator)
        chosen = torch.randint(self.keep, (k, 1), generator=generator, device=classes.device)
        offset = torch.einsum("kde,ke->kd", self.factors[classes], radii.gather(1, chosen) * direction)
        return self.means[classes] + offset
